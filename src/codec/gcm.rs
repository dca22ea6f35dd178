//! AES-256-GCM (SP 800-38D) with a key of its own for every session.
//!
//! ```text
//!  data key ── HKDF-SHA256 (session) ─► subkey ─► GCM(nonce = counter, aad = fragment name)
//! ```
//!
//! GCM breaks when a nonce repeats under one key, and 96 bits are too few for the 128 of a seal number. So the session
//! goes into the key and the counter into the nonce, and nothing has to be random at all.
//!
//! **Invariants.** Within a session no counter is used twice (I7). The payload of a fragment opens only under the name
//! it was sealed with: namespace, first LBA, block count, codec and seal number are authenticated.
//!
//! **Not here:** freshness. Whoever can write to the medium can put an older fragment back.

use std::sync::{Arc, Mutex, PoisonError};

use aes_gcm::aead::inout::InOutBuf;
use aes_gcm::{AeadInOut, Aes256Gcm, KeyInit};
use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::Zeroizing;

use super::seal::FragmentName;
use crate::error::{Error, ErrorKind, Result};
use crate::fail;
use crate::keys::DataKey;
use crate::units::{SealNo, SessionId};

/// Bytes of an authentication tag.
pub(super) const TAG: usize = 16;
/// Sessions whose subkeys are kept. A pool has as many as it was opened times; reads are mostly of a few.
const SESSIONS_KEPT: usize = 16;

const SESSION_INFO: &[u8] = b"plica gcm session 1";

/// The subkeys of one data key.
pub(super) struct Gcm {
    key: DataKey,
    /// Most recently used first.
    sessions: Mutex<Vec<(SessionId, Arc<Aes256Gcm>)>>,
}

impl Gcm {
    pub(super) fn new(key: DataKey) -> Self {
        Self { key, sessions: Mutex::new(Vec::with_capacity(SESSIONS_KEPT)) }
    }

    /// Encrypts `out[..len]` and appends the tag; returns the length with it.
    pub(super) fn encrypt(&self, name: &FragmentName, out: &mut [u8], len: usize) -> Result<usize> {
        let Some((payload, [tag_place, ..])) =
            out.split_at_mut_checked(len).map(|(p, rest)| (p, rest.as_chunks_mut::<TAG>().0))
        else {
            fail!(OutOfRange, "a buffer of {} bytes has no room for {len} sealed", out.len());
        };
        let tag = self
            .session(name.seal.session)
            .encrypt_inout_detached(&nonce(name.seal).into(), &name.bytes(), InOutBuf::from(payload))
            .map_err(|_| Error::new(ErrorKind::OutOfRange, format!("{len} bytes are more than GCM seals")))?;
        *tag_place = tag.into();
        Ok(len + TAG)
    }

    /// Verifies and decrypts `sealed[..len]` in place, where the tag follows; after an error the bytes are still
    /// encrypted. Returns the payload's length.
    pub(super) fn decrypt(&self, name: &FragmentName, sealed: &mut [u8]) -> Result<usize> {
        let Some((payload, tag)) = sealed.split_last_chunk_mut::<TAG>() else {
            fail!(Corrupt, "a sealed payload of {} bytes: GCM needs at least {TAG}", sealed.len());
        };
        let len = payload.len();
        self.session(name.seal.session)
            .decrypt_inout_detached(&nonce(name.seal).into(), &name.bytes(), InOutBuf::from(payload), &(*tag).into())
            .map_err(|_| {
                let at = format!("namespace {}, LBA {}", name.namespace, name.first);
                Error::new(ErrorKind::Corrupt, format!("a fragment of {at} does not authenticate"))
            })?;
        Ok(len)
    }

    fn session(&self, session: SessionId) -> Arc<Aes256Gcm> {
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        match sessions.iter().position(|(id, _)| *id == session) {
            Some(0) => {}
            Some(index) => sessions[..=index].rotate_right(1),
            None => {
                if sessions.len() == SESSIONS_KEPT {
                    sessions.pop();
                }
                sessions.insert(0, (session, Arc::new(self.derive(session))));
            }
        }
        sessions[0].1.clone()
    }

    fn derive(&self, session: SessionId) -> Aes256Gcm {
        let (key, _) = self.key.halves();
        let mut subkey = Zeroizing::new([0; 32]);
        Hkdf::<Sha256>::new(None, key)
            .expand_multi_info(&[SESSION_INFO, &session.0.to_le_bytes()], &mut subkey[..])
            .expect("32 bytes are within what HKDF-SHA256 gives");
        Aes256Gcm::new((&*subkey).into())
    }
}

fn nonce(seal: SealNo) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[..8].copy_from_slice(&seal.counter.to_le_bytes());
    nonce
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::testing::{data_key, hex, noise};
    use crate::format::Codec;
    use crate::units::{Lba, NamespaceId};

    fn name() -> FragmentName {
        FragmentName {
            namespace: NamespaceId(7),
            first: Lba(0x1122_3344),
            count: 4,
            codec: Codec::Lz4,
            seal: SealNo { session: SessionId(0x0102_0304_0506_0708), counter: 99 },
        }
    }

    fn seal(gcm: &Gcm, name: &FragmentName, payload: &[u8]) -> Vec<u8> {
        let mut out = payload.to_vec();
        out.resize(payload.len() + TAG, 0);
        assert_eq!(gcm.encrypt(name, &mut out, payload.len()).unwrap(), out.len());
        out
    }

    /// Computed with another implementation of HKDF and AES-GCM.
    #[test]
    fn bytes_are_what_they_were() {
        let sealed = seal(&Gcm::new(data_key(1)), &name(), b"twenty bytes of data");
        assert_eq!(sealed, hex("52c55edfecf74ba80b2bb8151397915fc50e09fbb92560d2cebfdc42402a0707e66370e1"));
    }

    #[test]
    fn opens_under_its_own_name_only() {
        let gcm = Gcm::new(data_key(1));
        let payload = noise(100, 1);
        let sealed = seal(&gcm, &name(), &payload);
        let mut opened = sealed.clone();
        assert_eq!(gcm.decrypt(&name(), &mut opened).unwrap(), 100);
        assert_eq!(opened[..100], payload);
        let others = [
            FragmentName { namespace: NamespaceId(8), ..name() },
            FragmentName { first: Lba(0x1122_3345), ..name() },
            FragmentName { count: 5, ..name() },
            FragmentName { codec: Codec::Raw, ..name() },
            FragmentName { seal: SealNo { counter: 98, ..name().seal }, ..name() },
            FragmentName { seal: SealNo { session: SessionId(1), ..name().seal }, ..name() },
        ];
        for other in others {
            let error = gcm.decrypt(&other, &mut sealed.clone()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{other:?}");
        }
        assert!(Gcm::new(data_key(2)).decrypt(&name(), &mut sealed.clone()).is_err());
    }

    #[test]
    fn every_flip_and_truncation_is_noticed() {
        let gcm = Gcm::new(data_key(1));
        let sealed = seal(&gcm, &name(), &noise(70, 1));
        for bit in 0..sealed.len() * 8 {
            let mut changed = sealed.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            let before = changed.clone();
            assert_eq!(gcm.decrypt(&name(), &mut changed).unwrap_err().kind(), ErrorKind::Corrupt, "bit {bit}");
            assert_eq!(changed, before, "nothing is opened before it is verified");
        }
        for len in 0..sealed.len() {
            let error = gcm.decrypt(&name(), &mut sealed[..len].to_vec()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{len} bytes");
        }
    }

    #[test]
    fn no_room_for_the_tag_is_an_error() {
        let gcm = Gcm::new(data_key(1));
        for room in 0..TAG {
            let mut out = vec![0; 64 + room];
            assert_eq!(gcm.encrypt(&name(), &mut out, 64).unwrap_err().kind(), ErrorKind::OutOfRange);
        }
    }

    #[test]
    fn few_sessions_are_kept_and_all_open() {
        let gcm = Gcm::new(data_key(1));
        let named = |session| FragmentName { seal: SealNo { session: SessionId(session), counter: 1 }, ..name() };
        let sealed: Vec<_> = (0..40).map(|session| seal(&gcm, &named(session), b"the same bytes")).collect();
        assert_eq!(gcm.sessions.lock().unwrap().len(), SESSIONS_KEPT);
        for (session, sealed) in (0..).zip(&sealed) {
            assert!(gcm.decrypt(&named(session), &mut sealed.clone()).is_ok(), "session {session}");
            assert_eq!(gcm.sessions.lock().unwrap()[0].0, SessionId(session));
        }
        assert_ne!(sealed[0], sealed[1], "sessions have different keys");
        assert_eq!(gcm.sessions.lock().unwrap().len(), SESSIONS_KEPT);
    }
}
