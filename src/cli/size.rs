//! Sizes as people write and read them: binary, `4K`, `16M`, `8G`, `1T`.

use crate::limits::BLOCK_SIZE;

const UNITS: [(char, u32); 5] = [('K', 10), ('M', 20), ('G', 30), ('T', 40), ('P', 50)];

/// Reads a size in bytes: a number, with a fraction if a unit follows (`K`, `M`, `G`, `T`, `P`, each 1024 times the one
/// before, also as `KiB` and so on).
///
/// # Errors
/// A sentence that says what was expected.
pub(super) fn parse_size(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is not a size: a number of bytes, or a number with K, M, G, T or P, such as 8G");
    let upper = text.trim().to_ascii_uppercase();
    let number = upper.strip_suffix("IB").or_else(|| upper.strip_suffix('B')).unwrap_or(&upper);
    let unit = UNITS.iter().find(|(letter, _)| number.ends_with(*letter));
    if number.len() < upper.len() && unit.is_none() && upper.ends_with("IB") {
        return Err(wrong());
    }
    let shift = unit.map_or(0, |(_, shift)| *shift);
    let number = unit.and_then(|(letter, _)| number.strip_suffix(*letter)).unwrap_or(number).trim_end();
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = |part: &str| part.chars().all(|c| c.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(fraction) || (number.contains('.') && unit.is_none()) {
        return Err(wrong());
    }
    let too_large = || format!("{text:?} is more than can be counted in 64 bits");
    let whole: u64 = whole.parse().map_err(|_| too_large())?;
    let bytes = whole.checked_mul(1 << shift).ok_or_else(too_large)?;
    let fraction_bytes = fraction_of(fraction, shift).ok_or_else(wrong)?;
    bytes.checked_add(fraction_bytes).ok_or_else(too_large)
}

/// Bytes of `0.fraction` times 2^shift, if that is a whole number of bytes.
fn fraction_of(fraction: &str, shift: u32) -> Option<u64> {
    let fraction = fraction.trim_end_matches('0');
    if fraction.is_empty() {
        return Some(0);
    }
    let scale = 10u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let numerator = fraction.parse::<u128>().ok()?.checked_mul(1 << shift)?;
    if !numerator.is_multiple_of(scale) {
        return None;
    }
    u64::try_from(numerator / scale).ok()
}

/// Reads a size that is to be a multiple of 4 KiB and not 0.
///
/// # Errors
/// A sentence with the nearest sizes that would do.
pub(super) fn parse_block_size_multiple(text: &str) -> Result<u64, String> {
    let bytes = parse_size(text)?;
    let block = u64::from(BLOCK_SIZE);
    if bytes == 0 {
        return Err("the size is 0".to_owned());
    }
    if bytes.is_multiple_of(block) {
        return Ok(bytes);
    }
    let below = bytes / block * block;
    let above = below.checked_add(block);
    let nearest: Vec<_> = [Some(below), above].into_iter().flatten().filter(|bytes| *bytes > 0).map(exact).collect();
    Err(format!("{bytes} bytes are not a multiple of 4 KiB; nearest: {}", nearest.join(" and ")))
}

/// Reads one of the unit sizes of a namespace, in bytes; 0 for `auto`.
///
/// # Errors
/// A sentence with those that would do.
pub(super) fn parse_unit(text: &str) -> Result<u32, String> {
    if text == "auto" {
        return Ok(0);
    }
    one_of(text, &[4096, 8192, 16384, 32768]).map_err(|error| format!("{error}, auto"))
}

/// A unit for people.
pub(super) fn unit(bytes: u32) -> String {
    if bytes == 0 { "auto".into() } else { exact(u64::from(bytes)) }
}

/// Reads one of the logical block sizes of a namespace.
///
/// # Errors
/// A sentence with those that would do.
pub(super) fn parse_logical_block(text: &str) -> Result<u32, String> {
    one_of(text, &[512, 4096])
}

/// Reads a segment size.
///
/// # Errors
/// A sentence with those that would do.
pub(super) fn parse_segment_size(text: &str) -> Result<u32, String> {
    one_of(text, &[1 << 20, 2 << 20, 4 << 20])
}

fn one_of(text: &str, allowed: &[u32]) -> Result<u32, String> {
    let bytes = parse_size(text)?;
    allowed.iter().copied().find(|size| u64::from(*size) == bytes).ok_or_else(|| {
        let names: Vec<_> = allowed.iter().map(|size| exact(u64::from(*size))).collect();
        format!("{text:?} is none of: {}", names.join(", "))
    })
}

/// A size so that [`parse_size`] reads back the same: the largest unit of which it is a whole number.
#[must_use]
pub(super) fn exact(bytes: u64) -> String {
    let fits = UNITS.iter().rev().find(|(_, shift)| bytes > 0 && bytes.is_multiple_of(1 << shift));
    fits.map_or_else(|| bytes.to_string(), |(letter, shift)| format!("{}{letter}", bytes >> shift))
}

/// A size for people to read: three digits and a unit.
#[must_use]
pub(super) fn approximate(bytes: u64) -> String {
    let Some((letter, shift)) = UNITS.iter().rev().find(|(_, shift)| bytes >> shift > 0) else {
        return format!("{bytes} B");
    };
    let hundredths = (u128::from(bytes) * 100) >> shift;
    let (whole, rest) = (hundredths / 100, hundredths % 100);
    match whole {
        _ if rest == 0 => format!("{whole} {letter}iB"),
        0..10 => format!("{whole}.{rest:02} {letter}iB"),
        10..100 => format!("{whole}.{} {letter}iB", rest / 10),
        _ => format!("{whole} {letter}iB"),
    }
}

/// A size for people to read, and how much it is of a whole.
#[must_use]
pub(super) fn with_percent(part: u64, whole: u64) -> String {
    if whole == 0 {
        return approximate(part);
    }
    let tenths = u128::from(part) * 1000 / u128::from(whole);
    format!("{} ({}.{} %)", approximate(part), tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_told_with_a_tenth_of_a_per_cent() {
        assert_eq!(with_percent(1 << 20, 64 << 20), "1 MiB (1.5 %)");
        assert_eq!(with_percent(0, 4096), "0 B (0.0 %)");
        assert_eq!(with_percent(0, 0), "0 B");
    }

    #[test]
    fn sizes_are_binary() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("512B", 512),
            ("4K", 4096),
            ("4k", 4096),
            ("4KiB", 4096),
            ("4KB", 4096),
            ("16M", 16 << 20),
            ("1.5G", 3 << 29),
            ("8 GiB", 8 << 30),
            ("1T", 1 << 40),
            ("4P", 4 << 50),
            ("0.5K", 512),
            ("2.50M", 5 << 19),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for text in ["", "K", "-1", "+1", "1.5", "1.3K", "1X", "1KK", "KiB", "4iB", "0x10", "1e3", "1.5.5G", "٣", "1 2"]
        {
            let message = parse_size(text).expect_err(text);
            assert!(message.contains("is not a size"), "{message}");
        }
        for text in ["18446744073709551616", "16384P", "99999999999999999999G"] {
            assert!(parse_size(text).expect_err(text).contains("64 bits"), "{text}");
        }
        assert_eq!(parse_size("18446744073709551615"), Ok(u64::MAX));
    }

    #[test]
    fn odd_sizes_name_their_neighbours() {
        assert_eq!(parse_block_size_multiple("8K"), Ok(8192));
        let message = parse_block_size_multiple("10000").unwrap_err();
        assert!(message.ends_with("nearest: 8K and 12K"), "{message}");
        assert!(parse_block_size_multiple("1").unwrap_err().ends_with("nearest: 4K"));
        assert!(parse_block_size_multiple("18446744073709551615").unwrap_err().contains("not a multiple"));
        assert_eq!(parse_block_size_multiple("0").unwrap_err(), "the size is 0");
    }

    #[test]
    fn choices_are_named() {
        assert_eq!(parse_unit("16K"), Ok(16384));
        assert_eq!((parse_unit("auto"), unit(0), unit(8192)), (Ok(0), "auto".into(), "8K".into()));
        assert_eq!(parse_logical_block("512"), Ok(512));
        assert_eq!(parse_segment_size("4M"), Ok(4 << 20));
        assert!(parse_unit("64K").unwrap_err().ends_with("none of: 4K, 8K, 16K, 32K, auto"));
        assert!(parse_logical_block("1K").unwrap_err().ends_with("none of: 512, 4K"));
    }

    #[test]
    fn sizes_are_shown() {
        assert_eq!(exact(0), "0");
        assert_eq!(exact(512), "512");
        assert_eq!(exact(16 << 20), "16M");
        assert_eq!(exact((1 << 40) + 4096), "1073741828K");
        assert_eq!(approximate(0), "0 B");
        assert_eq!(approximate(1023), "1023 B");
        assert_eq!(approximate(16 << 10), "16 KiB");
        assert_eq!(approximate(1500), "1.46 KiB");
        assert_eq!(approximate(20_000), "19.5 KiB");
        assert_eq!(approximate(800 << 30), "800 GiB");
        assert_eq!(approximate((800 << 30) + (1 << 29)), "800 GiB");
        assert_eq!(approximate(u64::MAX), "16383 PiB");
    }

    proptest::proptest! {
        #[test]
        fn exact_sizes_read_back(bytes: u64) {
            proptest::prop_assert_eq!(parse_size(&exact(bytes)), Ok(bytes));
        }

        #[test]
        fn any_text_is_read_or_refused(text in ".{0,24}") {
            match parse_block_size_multiple(&text) {
                Ok(bytes) => proptest::prop_assert!(bytes > 0 && bytes.is_multiple_of(u64::from(BLOCK_SIZE))),
                Err(error) => proptest::prop_assert!(!error.is_empty()),
            }
        }
    }
}
