use proptest::prelude::*;

use super::*;
use crate::tests::soft::{Area, Soft};

type Spoil = fn(&mut Area);

fn refusal<T: std::fmt::Debug>(parsed: Result<T, KeyFault>) -> String {
    parsed.expect_err("refused").to_string()
}

#[test]
fn an_attestation_key_that_could_sign_anything_or_leave_its_tpm_is_refused() {
    let check = |spoil: Spoil, expected: &str| {
        let mut area = Soft::new(1).ak_area();
        spoil(&mut area);
        assert_eq!(refusal(AttestationKey::parse(&area.write())), expected);
    };
    check(|it| it.attributes &= !RESTRICTED, "the attestation key is not restricted");
    check(|it| it.attributes &= !SIGN, "the attestation key is not sign");
    check(|it| it.attributes &= !(1 << 1), "the attestation key is not fixedTPM");
    check(|it| it.attributes &= !(1 << 4), "the attestation key is not fixedParent");
    check(|it| it.attributes &= !(1 << 5), "the attestation key is not sensitiveDataOrigin");
    check(|it| it.attributes |= DECRYPT, "the attestation key is decrypt, and must not be");
    let duplicated = "the attestation key is encryptedDuplication, and must not be";
    check(|it| it.attributes |= ENCRYPTED_DUPLICATION, duplicated);
    let unknown = "the attestation key has attributes 0x80000, where none of these belongs";
    check(|it| it.attributes |= 1 << 19, unknown);
    check(|it| it.attributes |= 1, "the attestation key has attributes 0x0001, where none of these belongs");
    check(|it| it.scheme = vec![0x10], "the attestation key has scheme 0x0010, where ECDSA with SHA-256 belongs");
    check(|it| it.scheme = vec![0x18, 0x04], "the attestation key has scheme 0x0018, where ECDSA with SHA-256 belongs");
    check(|it| it.curve = 4, "the attestation key has curve 0x0004, where P-256 belongs");
    check(|it| it.name_alg = 4, "the attestation key has hash 0x0004, where SHA-256 belongs");
    check(|it| it.kind = 8, "the attestation key has type 0x0008, where RSA or ECC belongs");
    check(
        |it| it.symmetric = vec![6, 128, 0x43],
        "the attestation key has symmetric algorithm 0x0006, where none belongs",
    );
    check(|it| it.x[31] ^= 1, "the numbers of the attestation key are no public key");
}

#[test]
fn a_tls_key_that_is_restricted_decrypts_or_can_leave_is_refused() {
    let check = |spoil: Spoil, expected: &str| {
        let mut area = Soft::new(1).tls_area();
        spoil(&mut area);
        assert_eq!(refusal(TlsKey::parse(&area.write())), expected);
    };
    check(|it| it.attributes |= RESTRICTED, "the TLS key is restricted, and must not be");
    check(|it| it.attributes |= DECRYPT, "the TLS key is decrypt, and must not be");
    check(|it| it.attributes &= !(1 << 1), "the TLS key is not fixedTPM");
    check(|it| it.attributes &= !(1 << 4), "the TLS key is not fixedParent");
    check(|it| it.attributes &= !(1 << 5), "the TLS key is not sensitiveDataOrigin");
    check(|it| it.attributes &= !SIGN, "the TLS key is not sign");
    check(|it| it.scheme = vec![0x1b, 0x0b], "the TLS key has scheme 0x001b, where ECDSA with SHA-256 belongs");
    let mut without_scheme = Soft::new(1).tls_area();
    without_scheme.scheme = vec![0x10];
    assert!(TlsKey::parse(&without_scheme.write()).is_ok(), "the scheme may be said when it signs");
}

#[test]
fn an_endorsement_key_that_is_no_restricted_decryption_key_is_refused() {
    let check = |spoil: Spoil, expected: &str| {
        let mut area = Soft::new(1).ek_area();
        spoil(&mut area);
        assert_eq!(refusal(EndorsementKey::parse(&area.write())), expected);
    };
    check(|it| it.attributes &= !RESTRICTED, "the endorsement key is not restricted");
    check(|it| it.attributes &= !DECRYPT, "the endorsement key is not decrypt");
    check(|it| it.attributes |= SIGN, "the endorsement key is sign, and must not be");
    check(
        |it| it.symmetric = vec![6, 256, 0x43],
        "the endorsement key has symmetric algorithm 0x0006, where AES-128-CFB belongs",
    );
    check(
        |it| it.symmetric = vec![0x10],
        "the endorsement key has symmetric algorithm 0x0010, where AES-128-CFB belongs",
    );
}

#[test]
fn rsa_keys_of_other_sizes_and_exponents_are_refused() {
    let area = |bits: u16, exponent: u32, modulus: &[u8]| {
        let head = [&[0, 1, 0, 0x0b, 0, 3, 0, 0xb2, 0, 0, 0, 6, 0, 128, 0, 0x43, 0, 0x10][..], &bits.to_be_bytes()];
        [&head.concat()[..], &exponent.to_be_bytes(), &crate::structure::sized(modulus)].concat()
    };
    let check = |bytes: Vec<u8>, is_key: bool| {
        assert_eq!(EndorsementKey::parse(&bytes).is_ok(), is_key, "{}", hex::encode(bytes));
    };
    let modulus = [0xff; 256];
    check(area(2048, 0, &modulus), true);
    check(area(2048, 65537, &modulus), true);
    check(area(2048, 3, &modulus), false);
    check(area(1024, 0, &modulus), false);
    check(area(2048, 0, &modulus[..128]), false);
    check(area(2048, 0, &[0; 256]), false);
    let mut even = modulus;
    even[255] = 0xfe;
    let broken = AttestationKey::parse(&area(2048, 0, &even));
    assert!(broken.is_err(), "an RSA key is no attestation key");
}

#[test]
fn every_key_reads_as_its_own_kind_only() {
    let soft = Soft::new(1);
    let [ek, ak, tls] = [soft.ek_area(), soft.ak_area(), soft.tls_area()].map(|area| area.write());
    for (bytes, expected) in [(&ek, [true, false, false]), (&ak, [false, true, false]), (&tls, [false, false, true])] {
        let kinds =
            [EndorsementKey::parse(bytes).is_ok(), AttestationKey::parse(bytes).is_ok(), TlsKey::parse(bytes).is_ok()];
        assert_eq!(kinds, expected);
    }
}

#[test]
fn a_public_area_cut_anywhere_or_with_a_byte_more_is_refused() {
    let whole = Soft::new(1).ak_area().write();
    for length in 0..whole.len() {
        assert!(AttestationKey::parse(&whole[..length]).is_err(), "{length}");
    }
    assert!(AttestationKey::parse(&[&whole[..], &[0]].concat()).is_err());
}

proptest! {
    #[test]
    fn no_bytes_make_a_key_parser_fall_over(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = EndorsementKey::parse(&bytes);
        let _ = AttestationKey::parse(&bytes);
        let _ = TlsKey::parse(&bytes);
    }

    #[test]
    fn a_key_with_a_byte_changed_is_refused_or_has_another_name(at in 0_usize..118, change in 1_u8..) {
        let whole = Soft::new(1).ak_area().write();
        let at = at % whole.len();
        let mut changed = whole.clone();
        changed[at] ^= change;
        if let Ok(key) = AttestationKey::parse(&changed) {
            prop_assert_ne!(*key.name(), *Soft::new(1).ak().name());
        }
    }
}
