use std::sync::OnceLock;

use super::*;

/// Headers for 64 bits and two sections, as small as a program can be.
fn program(tail: usize) -> Vec<u8> {
    let mut file = vec![0; 0x400];
    file[..2].copy_from_slice(b"MZ");
    file[PE_OFFSET] = 0x80;
    file[0x80..0x84].copy_from_slice(b"PE\0\0");
    file[0x84..0x88].copy_from_slice(&[0x64, 0x86, 2, 0]);
    file[0x94] = 240;
    let optional = 0x98;
    file[optional..optional + 2].copy_from_slice(&MAGIC_64.to_le_bytes());
    file[optional + 60..optional + 64].copy_from_slice(&0x200_u32.to_le_bytes());
    file[optional + 64..optional + 68].copy_from_slice(b"sum!");
    file[optional + 108] = 16;
    for (at, name, from) in [(0, b".text\0\0\0", 0x200_u32), (40, b".cmdline", 0x300)] {
        let at = optional + 240 + at;
        file[at..at + 8].copy_from_slice(name);
        for (offset, value) in [(8, 0x100), (12, from), (16, 0x100), (20, from)] {
            file[at + offset..at + offset + 4].copy_from_slice(&value.to_le_bytes());
        }
    }
    file[0x210] = 0xcc;
    file.resize(0x400 + tail, 7);
    file
}

fn pair(other: bool) -> &'static Pair {
    static PAIRS: OnceLock<[Pair; 2]> = OnceLock::new();
    let pairs = PAIRS.get_or_init(|| ["one", "two"].map(|name| Pair::make(name).expect("a key")));
    &pairs[usize::from(other)]
}

#[test]
fn what_was_signed_verifies_whatever_its_length_and_only_by_its_key() {
    for tail in [0, 1, 7, 8] {
        let signed = sign(&program(tail), pair(false)).expect("it can be signed");
        assert_eq!(signed.len() % ALIGNMENT, 0);
        verify(&signed, pair(false).certificate()).expect("it is signed");
        let error = verify(&signed, pair(true).certificate()).expect_err("by another key");
        assert!(matches!(error, AuthenticodeError::Signature(SignatureError::Signer { .. })), "{error:?}");
    }
}

#[test]
fn signing_again_gives_the_same_bytes() {
    assert_eq!(sign(&program(3), pair(false)).expect("once"), sign(&program(3), pair(false)).expect("twice"));
}

#[test]
fn what_is_signed_is_not_signed_twice() {
    let signed = sign(&program(0), pair(false)).expect("it can be signed");
    assert!(matches!(sign(&signed, pair(false)), Err(SignError::Signed)));
    assert!(matches!(sign(b"MZ", pair(false)), Err(SignError::Image(_))));
    assert!(matches!(verify(&program(0), pair(false).certificate()), Err(AuthenticodeError::Unsigned)));
}

/// The bytes that no signature covers: the checksum, which no firmware reads, and what the PKCS#7 says besides its
/// signature (certificates, padding), none of which changes what is started.
#[test]
fn no_flip_of_a_byte_outside_the_checksum_and_the_signature_block_is_accepted() {
    let program = program(5);
    let signed = sign(&program, pair(false)).expect("it can be signed");
    let checksum = 0x98 + 64..0x98 + 68;
    let covered = program.len().next_multiple_of(ALIGNMENT);
    let mut harmless = 0;
    for at in 0..signed.len() {
        let mut flipped = signed.clone();
        flipped[at] ^= 0x20;
        match verify(&flipped, pair(false).certificate()) {
            Err(_) => {}
            Ok(()) if checksum.contains(&at) || at >= covered => harmless += 1,
            Ok(()) => panic!("a flip at {at} was accepted"),
        }
    }
    assert!(harmless >= checksum.len(), "{harmless}");
}

#[test]
fn a_table_of_signatures_that_lies_is_refused() {
    let signed = sign(&program(0), pair(false)).expect("it can be signed");
    let table = program(0).len();
    let check = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut file = signed.clone();
        change(&mut file);
        assert!(verify(&file, pair(false).certificate()).is_err());
    };
    check(&|file| file.truncate(table + 4));
    check(&|file| file.extend([0; 8]));
    check(&|file| file[table..table + 4].copy_from_slice(&u32::MAX.to_le_bytes()));
    check(&|file| file[table..table + 4].copy_from_slice(&0_u32.to_le_bytes()));
    check(&|file| file[table + 6] = 1);
    check(&|file| file[0x98] = 0x0c);
}

proptest::proptest! {
    #[test]
    fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..600)) {
        let _ = verify(&bytes, pair(false).certificate());
        let mut file = sign(&program(0), pair(false)).expect("it can be signed");
        let table = program(0).len() + HEAD_BYTES;
        let end = (table + bytes.len()).min(file.len());
        file[table..end].copy_from_slice(&bytes[..end - table]);
        let verified = verify(&file, pair(false).certificate());
        proptest::prop_assert!(verified.is_err() || bytes.is_empty());
    }
}
