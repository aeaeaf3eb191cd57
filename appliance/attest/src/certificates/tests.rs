use proptest::prelude::*;
use rcgen::{BasicConstraints, CertificateParams, CustomExtension, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose};

use super::*;
use crate::tests::soft::{Authority, NOW, Soft, days, named};

fn anchors(roots: &[&Authority]) -> Anchors {
    let mut trusted = Roots::none();
    roots.iter().for_each(|root| trusted.add(&root.certificate).expect("a root"));
    Anchors { roots: trusted, pinned: Vec::new() }
}

fn vouch(anchors: &Anchors, chain: Vec<Vec<u8>>) -> Result<Voucher, ChainFault> {
    anchors.vouch(&Soft::new(1).ek(), &Certificates::new(chain).expect("few"), NOW)
}

#[test]
fn a_chain_of_one_to_four_in_any_order_is_followed_to_its_root() {
    let (soft, root) = (Soft::new(1), Authority::root("root"));
    let first = root.below(Authority::params("first"));
    let second = first.below(Authority::params("second"));
    let third = second.below(Authority::params("third"));
    let chains = [
        vec![root.issue(&soft.leaf(), &soft)],
        vec![first.issue(&soft.leaf(), &soft), first.certificate.clone()],
        vec![second.certificate.clone(), second.issue(&soft.leaf(), &soft), first.certificate.clone()],
        vec![
            first.certificate.clone(),
            third.certificate.clone(),
            second.certificate.clone(),
            third.issue(&soft.leaf(), &soft),
        ],
    ];
    for chain in chains {
        let Ok(Voucher::Maker(maker)) = vouch(&anchors(&[&root]), chain) else { panic!("vouched for by its maker") };
        assert_eq!(maker.root, "CN=root");
    }
    let by_issuer = vouch(&anchors(&[&first]), vec![first.issue(&soft.leaf(), &soft)]);
    assert!(by_issuer.is_ok(), "an issuer may be trusted by itself");
}

#[test]
fn a_root_that_only_the_rig_brings_is_unknown() {
    let (soft, root) = (Soft::new(1), Authority::root("root"));
    let chain = vec![root.issue(&soft.leaf(), &soft), root.certificate.clone()];
    let unknown = ChainFault::UnknownIssuer { issuer: "CN=root".to_owned() };
    assert_eq!(vouch(&anchors(&[&Authority::root("other")]), chain.clone()), Err(unknown.clone()));
    assert_eq!(vouch(&anchors(&[]), chain), Err(unknown));
}

#[test]
fn a_missing_issuer_is_named() {
    let (soft, root) = (Soft::new(1), Authority::root("root"));
    let first = root.below(Authority::params("first"));
    let unknown = ChainFault::UnknownIssuer { issuer: "CN=first".to_owned() };
    assert_eq!(vouch(&anchors(&[&root]), vec![first.issue(&soft.leaf(), &soft)]), Err(unknown));
}

#[test]
fn a_namesake_of_a_root_signs_nothing() {
    let (soft, root) = (Soft::new(1), Authority::root("root"));
    let namesake = Authority::root("root");
    let chain = vec![namesake.issue(&soft.leaf(), &soft), namesake.certificate.clone()];
    let expected = ChainFault::Signature { issuer: "CN=root".to_owned(), subject: "CN=TPM".to_owned() };
    assert_eq!(vouch(&anchors(&[&root]), chain[..1].to_vec()), Err(expected.clone()));
    let with_it = vouch(&anchors(&[&root]), chain);
    assert!(with_it.is_err(), "{with_it:?}");
}

#[test]
fn the_certificate_of_another_tpm_is_refused_pinned_or_not() {
    let (soft, other, root) = (Soft::new(1), Soft::new(2), Authority::root("root"));
    let stolen = vec![root.issue(&other.leaf(), &other)];
    assert_eq!(vouch(&anchors(&[&root]), stolen.clone()), Err(ChainFault::Foreign));
    let pinned = Anchors { pinned: vec![Fingerprint::of(&soft.ek())], ..anchors(&[&root]) };
    assert_eq!(vouch(&pinned, stolen), Err(ChainFault::Foreign));
}

#[test]
fn a_pin_is_the_owners_word_and_never_a_makers() {
    let (soft, root) = (Soft::new(1), Authority::root("root"));
    let fingerprint = Fingerprint::of(&soft.ek());
    let pinned = |roots: &[&Authority]| Anchors { pinned: vec![fingerprint], ..anchors(roots) };
    assert_eq!(vouch(&anchors(&[&root]), Vec::new()), Err(ChainFault::NoCertificate { fingerprint }));
    assert_eq!(vouch(&pinned(&[]), Vec::new()), Ok(Voucher::Owner(fingerprint)));
    let chain = vec![root.issue(&soft.leaf(), &soft)];
    assert_eq!(vouch(&pinned(&[]), chain.clone()), Ok(Voucher::Owner(fingerprint)));
    assert!(matches!(vouch(&pinned(&[&root]), chain), Ok(Voucher::Maker(_))), "the stronger word is taken");
    assert_eq!(fingerprint.to_string().parse(), Ok(fingerprint));
    assert_eq!("77".parse::<Fingerprint>(), Err(NoFingerprint));
}

#[test]
fn dates_bind_every_certificate_below_the_root() {
    let (soft, root) = (Soft::new(1), Authority::root("root"));
    let check = |from: i64, until: i64, is_valid: bool| {
        let mut leaf = soft.leaf();
        days(&mut leaf, from, until);
        let of_leaf = vouch(&anchors(&[&root]), vec![root.issue(&leaf, &soft)]);
        let mut between = Authority::params("first");
        days(&mut between, from, until);
        let first = root.below(between);
        let chain = vec![first.issue(&soft.leaf(), &soft), first.certificate.clone()];
        for said in [of_leaf, vouch(&anchors(&[&root]), chain)] {
            assert_eq!(said.is_ok(), is_valid, "{said:?}");
            assert!(is_valid || matches!(said, Err(ChainFault::NotValidNow { .. })), "{said:?}");
        }
    };
    check(-1, 1, true);
    check(0, 0, true);
    check(-9, -1, false);
    check(1, 9, false);
}

#[test]
fn only_a_certificate_of_an_endorsement_key_speaks_for_one() {
    let (soft, root) = (Soft::new(1), Authority::root("root"));
    let check = |spoil: fn(&mut CertificateParams), why: &'static str| {
        let mut leaf = soft.leaf();
        spoil(&mut leaf);
        let said = vouch(&anchors(&[&root]), vec![root.issue(&leaf, &soft)]);
        assert_eq!(said, Err(ChainFault::NotEndorsement { why }));
    };
    check(|it| it.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth], "its purposes are others");
    check(|it| it.extended_key_usages.clear(), "it names neither that purpose nor a TPM's model");
    check(|it| it.key_usages = vec![KeyUsagePurpose::DigitalSignature], "its key is not for encryption");
    check(|it| it.is_ca = IsCa::Ca(BasicConstraints::Unconstrained), "it is a certificate authority's");
}

#[test]
fn an_issuer_that_may_not_issue_is_refused() {
    let (soft, root) = (Soft::new(1), Authority::root("root"));
    let check = |spoil: fn(&mut CertificateParams), expected: &'static str| {
        let mut params = Authority::params("first");
        spoil(&mut params);
        let first = root.below(params);
        let second = first.below(Authority::params("second"));
        let chain = vec![second.issue(&soft.leaf(), &soft), second.certificate.clone(), first.certificate.clone()];
        match vouch(&anchors(&[&root]), chain) {
            Err(ChainFault::NotAnIssuer { subject, why }) => assert_eq!((&*subject, why), ("CN=first", expected)),
            other => panic!("{other:?}"),
        }
    };
    check(|it| it.is_ca = IsCa::ExplicitNoCa, "it is no certificate authority's");
    check(|it| it.is_ca = IsCa::NoCa, "it does not say that it is a certificate authority's");
    check(|it| it.key_usages = vec![KeyUsagePurpose::CrlSign], "its key is not for certificates");
    check(|it| it.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)), "its chain may not be that long");
}

#[test]
fn something_critical_that_is_not_known_is_refused() {
    let (soft, root) = (Soft::new(1), Authority::root("root"));
    let check = |is_critical: bool, is_taken: bool| {
        let mut leaf = soft.leaf();
        let mut extension = CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![5, 0]);
        extension.set_criticality(is_critical);
        leaf.custom_extensions.push(extension);
        let said = vouch(&anchors(&[&root]), vec![root.issue(&leaf, &soft)]);
        assert_eq!(said.is_ok(), is_taken, "{said:?}");
    };
    check(false, true);
    check(true, false);
}

#[test]
fn a_certificate_that_names_itself_as_issuer_is_refused() {
    let soft = Soft::new(1);
    let own = Authority::root("TPM");
    let said = vouch(&anchors(&[&own]), vec![own.issue(&soft.leaf(), &soft)]);
    assert_eq!(said, Err(ChainFault::SelfIssued));
}

#[test]
fn every_signed_byte_of_a_certificate_counts_and_its_signature() {
    let (soft, root) = (Soft::new(1), Authority::root("root"));
    let leaf = root.issue(&soft.leaf(), &soft);
    let anchors = anchors(&[&root]);
    assert!(vouch(&anchors, vec![leaf.clone()]).is_ok());
    // Between the two the algorithm is repeated, outside of what is signed; the parser takes a second tag for its OID.
    let repeated = 7 + usize::from(leaf[6]);
    for at in (0..leaf.len()).filter(|at| *at != repeated + 2) {
        let mut flipped = leaf.clone();
        flipped[at] ^= 1;
        assert!(vouch(&anchors, vec![flipped]).is_err(), "byte {at}");
    }
    let trailing = vouch(&anchors, vec![[&leaf[..], &[0]].concat()]);
    assert_eq!(trailing, Err(ChainFault::Unreadable { at: 1 }));
}

#[test]
fn roots_come_in_der_and_pem_and_nothing_else() {
    let mut roots = Roots::none();
    let root = Authority::root("root");
    assert_eq!(roots.add(&root.certificate), Ok(()));
    let mut params = CertificateParams::default();
    params.distinguished_name = named("pem");
    let pem = params.self_signed(&rcgen::KeyPair::generate().expect("a key")).expect("a certificate").pem();
    assert_eq!(roots.add(format!("# two\n{pem}{pem}").as_bytes()), Ok(()));
    assert_eq!(roots.len(), 3);
    for (bad, expected) in [
        (&b""[..], RootsFault::None),
        (b"hello", RootsFault::None),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", RootsFault::Unreadable { at: 1 }),
        (b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", RootsFault::None),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n", RootsFault::Unreadable { at: 1 }),
    ] {
        assert_eq!(roots.add(bad), Err(expected), "{}", String::from_utf8_lossy(bad));
    }
    assert_eq!(roots.len(), 3, "a bad file adds nothing");
}

proptest! {
    #[test]
    fn no_bytes_make_the_certificate_parser_fall_over(bytes in proptest::collection::vec(any::<u8>(), 1..300)) {
        prop_assert!(vouch(&Anchors::default(), vec![bytes.clone()]).is_err());
        prop_assert!(Soft::new(1).tls().requested(&bytes).is_err());
        let _ = Roots::none().add(&bytes);
    }
}
