//! A rig made of an emulated TPM: what rig-signer does, as short as it can be.

use std::cell::RefCell;
use std::time::{SystemTime, UNIX_EPOCH};

use attest::evidence::{Certificates, EnrolmentFormat, Nonce, QuoteFormat};
use attest::{Anchors, Answer, Attested, Credential, Enrolment, Hex, PcrValues, Quote, Roots};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PublicKeyData, SignatureAlgorithm,
};
use sha2::{Digest, Sha256};
use swtpm::Emulator;
use tpm::{Blob, EkKind, Fault, Loaded, Pcrs, Tpm};

pub(crate) const NONCE: [u8; 32] = [0x5a; 32];
pub(crate) const PCRS: [u8; 4] = [0, 7, 11, 12];

pub(crate) struct Rig {
    pub(crate) emulator: Emulator,
    pub(crate) tls: Blob,
    kind: EkKind,
    /// Who certifies the P-256 endorsement key: the emulator's tools certify RSA-2048 and P-384 only.
    maker: Issuer<'static, KeyPair>,
    maker_certificate: Vec<u8>,
}

/// A public key as a certificate library sees it.
struct Public(Vec<u8>);

/// The TLS key as a certificate library sees it.
struct Signing<'a> {
    tpm: RefCell<&'a mut Tpm>,
    key: &'a Loaded,
    point: Vec<u8>,
}

// === impl Rig ===

impl Rig {
    pub(crate) fn new(kind: EkKind) -> Rig {
        Rig::with(Emulator::with_certificates(), kind)
    }

    /// One whose TPM keeps no certificate.
    pub(crate) fn bare() -> Rig {
        Rig::with(Emulator::start(), EkKind::P256)
    }

    fn with(emulator: Emulator, kind: EkKind) -> Rig {
        let mut tpm = open(&emulator);
        let srk = tpm.srk().unwrap();
        let tls = tpm.tls_key(&srk).unwrap();
        tpm.flush_srk(srk).unwrap();
        let (maker, maker_certificate) = maker();
        Rig { emulator, tls, kind, maker, maker_certificate }
    }

    /// The same keys in a copy of this TPM.
    pub(crate) fn copy(&self) -> Rig {
        let (maker, maker_certificate) = maker();
        let (emulator, tls) = (self.emulator.copy_state(), self.tls.clone());
        Rig { emulator, tls, kind: self.kind, maker, maker_certificate }
    }

    pub(crate) fn tpm(&self) -> Tpm {
        open(&self.emulator)
    }

    /// What the TPM's maker put in, and the issuer that a maker publishes.
    pub(crate) fn certificates(&self) -> Vec<Vec<u8>> {
        let mut ders = self.tpm().ek_certificates().unwrap();
        if ders.is_empty() {
            return ders;
        }
        match self.kind {
            EkKind::Rsa2048 => ders.push(self.issuer()),
            EkKind::P256 => ders.push(self.certificate()),
        }
        ders
    }

    fn certificate(&self) -> Vec<u8> {
        let mut tpm = self.tpm();
        let ek = tpm.ek(EkKind::P256).unwrap();
        let point = Public(ek.point().unwrap().to_sec1().to_vec());
        tpm.flush(ek).unwrap();
        let mut params = CertificateParams::default();
        params.key_usages = vec![KeyUsagePurpose::KeyAgreement];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::Other(vec![2, 23, 133, 8, 1])];
        params.signed_by(&point, &self.maker).unwrap().der().to_vec()
    }

    /// The emulator's maker has a root, and an issuer below it that signs.
    pub(crate) fn issuer(&self) -> Vec<u8> {
        self.emulator.roots()[1].clone()
    }

    pub(crate) fn anchors(&self) -> Anchors {
        let mut roots = Roots::none();
        self.emulator.roots().iter().take(1).for_each(|root| roots.add(root).unwrap());
        roots.add(&self.maker_certificate).unwrap();
        Anchors { roots, pinned: Vec::new() }
    }

    pub(crate) fn enrolment(&self, nonce: &[u8]) -> Enrolment {
        let certificates = self.certificates();
        let mut tpm = self.tpm();
        let ek = tpm.ek(self.kind).unwrap();
        let ek_public = ek.public().to_vec();
        tpm.flush(ek).unwrap();
        let (ak, tls) = self.ak_and_tls(&mut tpm);
        let certified = tpm.certify(&ak, &tls, nonce).unwrap();
        let request = request(&mut tpm, &tls);
        let enrolment = Enrolment {
            format: EnrolmentFormat::V1,
            certificates: Certificates::new(certificates).unwrap(),
            ek: Hex::new(ek_public).unwrap(),
            ak: Hex::new(ak.public()).unwrap(),
            tls: Hex::new(tls.public()).unwrap(),
            nonce: Nonce::new(nonce).unwrap(),
            certified: Attested::new(certified.attest, certified.signature).unwrap(),
            request: Hex::new(request).unwrap(),
        };
        tpm.flush(tls).unwrap();
        tpm.flush(ak).unwrap();
        enrolment
    }

    pub(crate) fn ak_and_tls(&self, tpm: &mut Tpm) -> (Loaded, Loaded) {
        let srk = tpm.srk().unwrap();
        let tls = tpm.load(&srk, &self.tls).unwrap();
        tpm.flush_srk(srk).unwrap();
        (tpm.ak().unwrap(), tls)
    }

    pub(crate) fn activate(&self, credential: &Credential) -> Result<Answer, Fault> {
        let mut tpm = self.tpm();
        let (ak, ek) = (tpm.ak().unwrap(), tpm.ek(self.kind).unwrap());
        let blob = credential.blob.as_bytes().to_vec();
        let secret = credential.secret.as_bytes().to_vec();
        let answer = tpm.activate(&ak, &ek, &tpm::Credential { blob, secret });
        tpm.flush(ak).unwrap();
        tpm.flush(ek).unwrap();
        answer.map(|secret| Answer::new(&secret).unwrap())
    }

    pub(crate) fn quote(&self, nonce: &[u8]) -> Quote {
        let mut tpm = self.tpm();
        let ak = tpm.ak().unwrap();
        let quote = quote_by(&mut tpm, &ak, nonce);
        tpm.flush(ak).unwrap();
        quote
    }
}

/// A quote by any signing key.
pub(crate) fn quote_by(tpm: &mut Tpm, key: &Loaded, nonce: &[u8]) -> Quote {
    let selection = Pcrs::new(PCRS).unwrap();
    let values = tpm.pcrs(&selection).unwrap();
    let quoted = tpm.quote(key, &selection, nonce).unwrap();
    Quote {
        format: QuoteFormat::V1,
        quoted: Attested::new(quoted.attest, quoted.signature).unwrap(),
        pcrs: PcrValues::new(values.iter()).unwrap(),
        nonce: Nonce::new(nonce).unwrap(),
    }
}

pub(crate) fn open(emulator: &Emulator) -> Tpm {
    Tpm::open(&emulator.place().parse().unwrap()).unwrap()
}

fn maker() -> (Issuer<'static, KeyPair>, Vec<u8>) {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "a maker");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap().der().to_vec();
    (Issuer::new(params, key), certificate)
}

/// Unix seconds.
pub(crate) fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs().try_into().unwrap()
}

/// TPM2_Clear by the lockout hierarchy with its empty password: what a BIOS menu does.
pub(crate) fn clear(tpm: &mut Tpm) {
    let frame = "8002 0000001b 00000126 4000000a 00000009 40000009 0000 00 0000".replace(' ', "");
    let answer = tpm.exchange(&hex::decode(frame).unwrap()).unwrap();
    assert_eq!(answer[6..10], [0; 4], "cleared");
}

fn request(tpm: &mut Tpm, key: &Loaded) -> Vec<u8> {
    let point = key.point().unwrap().to_sec1().to_vec();
    let signing = Signing { tpm: RefCell::new(tpm), key, point };
    let params = CertificateParams::new(["rig.invalid".to_owned()]).unwrap();
    params.serialize_request(&signing).unwrap().der().to_vec()
}

impl PublicKeyData for Public {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

impl PublicKeyData for Signing<'_> {
    fn der_bytes(&self) -> &[u8] {
        &self.point
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

impl rcgen::SigningKey for Signing<'_> {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        let digest = Sha256::digest(message).into();
        let signature = self.tpm.borrow_mut().sign(self.key, digest).map_err(|_| rcgen::Error::RemoteKeyError)?;
        let signature = p256::ecdsa::Signature::from_slice(&signature.to_bytes()).unwrap();
        Ok(signature.to_der().as_bytes().to_vec())
    }
}
