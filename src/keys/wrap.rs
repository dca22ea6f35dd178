//! A data key under the root key: what the namespace table stores.
//!
//! ```text
//!  root key ── HKDF-SHA256 (pool id) ─┬─ "wrap"  → 256-bit wrapping key ─ AES-256-GCM(data key)
//!                                     └─ "check" → 16 bytes in the superblock
//! ```
//!
//! The root key itself never encrypts anything: each use has its own derived key, and each pool its own, so that one
//! key file may serve many pools.
//!
//! **Layout** of a wrapped key: nonce 12 ‖ ciphertext 64 ‖ tag 16. Authenticated with it: pool, namespace, cipher. A
//! wrapped key moved to another namespace or pool, or one whose cipher was changed, does not open.
//!
//! **Failure.** [`ErrorKind::Locked`]: the root key does not fit. AEAD cannot tell a wrong key from damage; the key
//! check in the superblock tells, and is looked at first.

use aes_gcm::aead::inout::InOutBuf;
use aes_gcm::{AeadInOut, Aes256Gcm, KeyInit};
use ctutils::CtEq;
use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::Zeroizing;

use super::data_key::{DATA_KEY_BYTES, DataKey};
use super::root_key::RootKey;
use crate::error::{Error, ErrorKind, Result};
use crate::format::Cipher;
use crate::units::{NamespaceId, PoolId};

/// Bytes of a nonce.
pub const WRAP_NONCE_BYTES: usize = 12;
/// Bytes of an authentication tag.
const TAG_BYTES: usize = 16;
/// Bytes of a wrapped data key.
pub const WRAPPED_BYTES: usize = WRAP_NONCE_BYTES + DATA_KEY_BYTES + TAG_BYTES;
/// Bytes of a key check.
pub const KEY_CHECK_BYTES: usize = 16;

const WRAP_INFO: &[u8] = b"plica data key wrapping 1";
const CHECK_INFO: &[u8] = b"plica root key check 1";
const AAD_DOMAIN: &[u8; 24] = b"plica wrapped data key 1";
const AAD_BYTES: usize = AAD_DOMAIN.len() + 16 + 4 + 1;

/// Wraps `key` for this namespace. `nonce` must be random and used once.
#[must_use]
pub fn wrap(
    root: &RootKey,
    pool: PoolId,
    namespace: NamespaceId,
    cipher: Cipher,
    key: &DataKey,
    nonce: [u8; WRAP_NONCE_BYTES],
) -> [u8; WRAPPED_BYTES] {
    let mut wrapped = [0; WRAPPED_BYTES];
    let (nonce_place, sealed) = wrapped.split_at_mut(WRAP_NONCE_BYTES);
    let (secret, tag_place) = sealed.split_at_mut(DATA_KEY_BYTES);
    nonce_place.copy_from_slice(&nonce);
    secret.copy_from_slice(key.bytes());
    let aad = associated(pool, namespace, cipher);
    let tag = wrapping_cipher(root, pool)
        .encrypt_inout_detached(&nonce.into(), &aad, InOutBuf::from(secret))
        .expect("64 bytes are within what GCM seals");
    tag_place.copy_from_slice(&tag);
    wrapped
}

/// Opens what [`wrap`] made for the same pool, namespace and cipher.
///
/// # Errors
/// [`ErrorKind::Locked`]: the root key is another one, or the wrapped key is damaged or of another namespace.
pub fn unwrap(
    root: &RootKey,
    pool: PoolId,
    namespace: NamespaceId,
    cipher: Cipher,
    wrapped: &[u8; WRAPPED_BYTES],
) -> Result<DataKey> {
    let (nonce, sealed) = wrapped.split_at(WRAP_NONCE_BYTES);
    let (ciphertext, tag) = sealed.split_at(DATA_KEY_BYTES);
    let (Ok(nonce), Ok(tag)) = (nonce.try_into(), tag.try_into()) else { unreachable!("cut to size") };
    let mut secret = Zeroizing::new([0; DATA_KEY_BYTES]);
    secret.copy_from_slice(ciphertext);
    let aad = associated(pool, namespace, cipher);
    wrapping_cipher(root, pool).decrypt_inout_detached(nonce, &aad, InOutBuf::from(&mut secret[..]), tag).map_err(
        |_| {
            let text = format!(
                "the root key does not fit namespace {namespace} of pool {pool}, or its wrapped key is damaged"
            );
            Error::new(ErrorKind::Locked, text)
        },
    )?;
    DataKey::from_bytes(&secret)
}

/// What the superblock keeps to tell a wrong root key at once. Says nothing about the key itself.
#[must_use]
pub fn key_check(root: &RootKey, pool: PoolId) -> [u8; KEY_CHECK_BYTES] {
    let mut check = [0; KEY_CHECK_BYTES];
    derive(root, CHECK_INFO, pool, &mut check);
    check
}

/// Compares a root key with the pool's key check, in constant time.
///
/// # Errors
/// [`ErrorKind::Locked`]: the pool was made with another root key.
pub fn verify_key_check(root: &RootKey, pool: PoolId, check: &[u8; KEY_CHECK_BYTES]) -> Result<()> {
    if key_check(root, pool).ct_eq(check).to_bool() {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Locked, format!("this is not the root key of pool {pool}")))
}

fn wrapping_cipher(root: &RootKey, pool: PoolId) -> Aes256Gcm {
    let mut key = Zeroizing::new([0; 32]);
    derive(root, WRAP_INFO, pool, &mut key[..]);
    Aes256Gcm::new((&*key).into())
}

fn derive(root: &RootKey, info: &[u8], pool: PoolId, into: &mut [u8]) {
    Hkdf::<Sha256>::new(None, root.bytes())
        .expand_multi_info(&[info, &pool.0], into)
        .expect("32 bytes are within what HKDF-SHA256 gives");
}

fn associated(pool: PoolId, namespace: NamespaceId, cipher: Cipher) -> [u8; AAD_BYTES] {
    let mut aad = [0; AAD_BYTES];
    let (domain, rest) = aad.split_at_mut(AAD_DOMAIN.len());
    domain.copy_from_slice(AAD_DOMAIN);
    rest[..16].copy_from_slice(&pool.0);
    rest[16..20].copy_from_slice(&namespace.0.to_le_bytes());
    rest[20] = cipher.to_byte();
    aad
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::testing::hex;

    const POOL: PoolId = PoolId([5; 16]);
    const NAMESPACE: NamespaceId = NamespaceId(3);
    const CIPHER: Cipher = Cipher::Aes256Xts;

    fn root() -> RootKey {
        RootKey::from_bytes(&[9; 32])
    }

    fn data_key() -> DataKey {
        let bytes: Vec<u8> = (0..64).collect();
        DataKey::from_bytes(bytes.as_slice().try_into().unwrap()).unwrap()
    }

    fn wrapped() -> [u8; WRAPPED_BYTES] {
        wrap(&root(), POOL, NAMESPACE, CIPHER, &data_key(), [1; 12])
    }

    fn kind_of(result: Result<DataKey>) -> ErrorKind {
        result.unwrap_err().kind()
    }

    #[test]
    fn opens_to_the_same_key() {
        let opened = unwrap(&root(), POOL, NAMESPACE, CIPHER, &wrapped()).unwrap();
        assert_eq!(opened.bytes(), data_key().bytes());
        assert_eq!(wrapped()[..12], [1; 12]);
    }

    /// Computed with another implementation of HKDF and AES-GCM.
    #[test]
    fn bytes_are_what_they_were() {
        assert_eq!(wrapped().as_slice(), hex(WRAPPED_GOLDEN));
        assert_eq!(key_check(&root(), POOL).as_slice(), hex(CHECK_GOLDEN));
    }

    const WRAPPED_GOLDEN: &str = "010101010101010101010101f925ca36123a22771bfb215d3e53b1d76a22c180b561c32bc9614d5dbde081b7c096e93c3b53e0f3dc0e1968a2cdaafeb0c552b522b38743327e46cbd165cbd705c7b1a742677d139c95edf63a3260ec";
    const CHECK_GOLDEN: &str = "0e23758919a649bf7fda135a77734e37";

    #[test]
    fn opens_only_where_it_belongs() {
        let (root, wrapped) = (root(), wrapped());
        let other = RootKey::from_bytes(&[8; 32]);
        assert_eq!(kind_of(unwrap(&other, POOL, NAMESPACE, CIPHER, &wrapped)), ErrorKind::Locked);
        assert_eq!(kind_of(unwrap(&root, PoolId([6; 16]), NAMESPACE, CIPHER, &wrapped)), ErrorKind::Locked);
        assert_eq!(kind_of(unwrap(&root, POOL, NamespaceId(4), CIPHER, &wrapped)), ErrorKind::Locked);
        assert_eq!(kind_of(unwrap(&root, POOL, NAMESPACE, Cipher::Aes256Gcm, &wrapped)), ErrorKind::Locked);
    }

    #[test]
    fn every_changed_byte_is_noticed() {
        for at in 0..WRAPPED_BYTES {
            let mut changed = wrapped();
            changed[at] ^= 1;
            assert_eq!(kind_of(unwrap(&root(), POOL, NAMESPACE, CIPHER, &changed)), ErrorKind::Locked, "byte {at}");
        }
    }

    #[test]
    fn key_check_knows_its_root_key_and_pool() {
        let check = key_check(&root(), POOL);
        assert!(verify_key_check(&root(), POOL, &check).is_ok());
        let other = verify_key_check(&RootKey::from_bytes(&[8; 32]), POOL, &check).unwrap_err();
        assert_eq!(other.kind(), ErrorKind::Locked);
        assert!(other.to_string().contains(&POOL.to_string()));
        assert!(verify_key_check(&root(), PoolId([6; 16]), &check).is_err());
        assert_ne!(&check[..], &wrapped()[12..28]);
    }
}
