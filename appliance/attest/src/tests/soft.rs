//! A TPM made of software keys, for tests: what it writes, only the verifier has to believe.
//!
//! It is also the forger of these tests: whatever a real TPM would refuse to sign, it signs.

use std::time::Duration;

use aes::Aes128;
use aes::cipher::{AsyncStreamCipher, KeyIvInit};
use hmac::{Hmac, Mac};
use p256::SecretKey;
use p256::ecdsa::signature::Signer;
use p256::ecdsa::{DerSignature, Signature, SigningKey};
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertificateSigningRequest, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SignatureAlgorithm,
};
use sha2::{Digest, Sha256};

use crate::clock::Clock;
use crate::document::Hex;
use crate::evidence::{
    Answer, Attested, Certificates, Credential, Enrolment, EnrolmentFormat, PcrValues, Quote, QuoteFormat,
};
use crate::keys::{AttestationKey, EndorsementKey, KeyName, TlsKey};
use crate::structure::{Reader, sized};

/// fixedTPM, fixedParent, sensitiveDataOrigin.
pub(crate) const BORN_HERE: u32 = 0x32;
pub(crate) const RESTRICTED: u32 = 1 << 16;
pub(crate) const DECRYPT: u32 = 1 << 17;
pub(crate) const SIGN: u32 = 1 << 18;
/// userWithAuth and adminWithPolicy.
pub(crate) const USER: u32 = 1 << 6;
pub(crate) const POLICY: u32 = 1 << 7;
pub(crate) const CERTIFY: u16 = 0x8017;
pub(crate) const QUOTE: u16 = 0x8018;
pub(crate) const NONCE: [u8; 32] = [0x5a; 32];
/// 2026-01-01, Unix seconds.
pub(crate) const NOW: i64 = 1_767_225_600;

pub(crate) struct Soft {
    ek: SecretKey,
    pub(crate) ak: SigningKey,
    tls: SigningKey,
    pub(crate) clock: Clock,
}

/// A public area, part by part.
#[derive(Clone)]
pub(crate) struct Area {
    pub(crate) kind: u16,
    pub(crate) name_alg: u16,
    pub(crate) attributes: u32,
    pub(crate) symmetric: Vec<u16>,
    pub(crate) scheme: Vec<u16>,
    pub(crate) curve: u16,
    pub(crate) kdf: u16,
    pub(crate) x: Vec<u8>,
    pub(crate) y: Vec<u8>,
}

/// A statement, part by part.
#[derive(Clone)]
pub(crate) struct Statement {
    pub(crate) magic: u32,
    pub(crate) kind: u16,
    pub(crate) signer: Vec<u8>,
    pub(crate) nonce: Vec<u8>,
    pub(crate) clock: Clock,
    pub(crate) body: Vec<u8>,
}

/// A certificate authority.
pub(crate) struct Authority {
    pub(crate) certificate: Vec<u8>,
    issuer: Issuer<'static, KeyPair>,
}

struct Public<'a>(&'a [u8]);

struct Csr<'a>(&'a SigningKey, Vec<u8>);

fn scalar(kind: u8, seed: u8) -> [u8; 32] {
    Sha256::digest([kind, seed]).into()
}

fn point(key: &SigningKey) -> (Vec<u8>, Vec<u8>) {
    let point = key.verifying_key().to_encoded_point(false);
    (point.x().expect("x").to_vec(), point.y().expect("y").to_vec())
}

// === impl Soft ===

impl Soft {
    pub(crate) fn new(seed: u8) -> Soft {
        Soft {
            ek: SecretKey::from_slice(&scalar(1, seed)).expect("a key"),
            ak: SigningKey::from_slice(&scalar(2, seed)).expect("a key"),
            tls: SigningKey::from_slice(&scalar(3, seed)).expect("a key"),
            clock: Clock { ms: 70_000, resets: 5, restarts: 1, is_safe: true },
        }
    }

    pub(crate) fn ek_area(&self) -> Area {
        let (x, y) = point(&SigningKey::from(&self.ek));
        let attributes = BORN_HERE | POLICY | RESTRICTED | DECRYPT;
        Area { symmetric: vec![6, 128, 0x43], scheme: vec![0x10], attributes, ..Area::signing(x, y) }
    }

    pub(crate) fn ak_area(&self) -> Area {
        let (x, y) = point(&self.ak);
        Area { attributes: BORN_HERE | USER | RESTRICTED | SIGN, ..Area::signing(x, y) }
    }

    pub(crate) fn tls_area(&self) -> Area {
        let (x, y) = point(&self.tls);
        Area { attributes: BORN_HERE | USER | SIGN, ..Area::signing(x, y) }
    }

    pub(crate) fn ek(&self) -> EndorsementKey {
        EndorsementKey::parse(&self.ek_area().write()).expect("an endorsement key")
    }

    pub(crate) fn ak(&self) -> AttestationKey {
        AttestationKey::parse(&self.ak_area().write()).expect("an attestation key")
    }

    pub(crate) fn tls(&self) -> TlsKey {
        TlsKey::parse(&self.tls_area().write()).expect("a TLS key")
    }

    pub(crate) fn statement(&self, kind: u16, body: Vec<u8>) -> Statement {
        let signer = KeyName::of(&self.ak_area().write()).qualified_as_endorsement_primary().as_bytes().to_vec();
        Statement { magic: 0xff54_4347, kind, signer, nonce: NONCE.to_vec(), clock: self.clock, body }
    }

    pub(crate) fn certification(&self) -> Statement {
        let name = sized(self.tls().name().as_bytes());
        self.statement(CERTIFY, [name.clone(), name].concat())
    }

    pub(crate) fn quotation(&self, pcrs: &PcrValues) -> Statement {
        let mut selection = [0; 3];
        let mut digest = Sha256::new();
        for (index, value) in pcrs.iter() {
            selection[usize::from(index / 8)] |= 1 << (index % 8);
            digest.update(value);
        }
        let digest: [u8; 32] = digest.finalize().into();
        self.statement(QUOTE, [&[0, 0, 0, 1, 0, 0x0b, 3][..], &selection, &sized(&digest)].concat())
    }

    pub(crate) fn signed(&self, statement: &Statement) -> Attested {
        self.signed_bytes(&statement.write())
    }

    /// What a restricted key never does.
    pub(crate) fn signed_bytes(&self, bytes: &[u8]) -> Attested {
        let signature: Signature = self.ak.sign(bytes);
        Attested::new(bytes, signature_bytes(&signature)).expect("within bounds")
    }

    pub(crate) fn quote(&self, pcrs: &PcrValues) -> Quote {
        let quoted = self.signed(&self.quotation(pcrs));
        Quote { format: QuoteFormat::V1, quoted, pcrs: pcrs.clone(), nonce: Hex::new(NONCE).expect("32 bytes") }
    }

    pub(crate) fn request(&self) -> Vec<u8> {
        let (x, y) = point(&self.tls);
        let csr = Csr(&self.tls, [&[4][..], &x, &y].concat());
        let params = CertificateParams::new(["rig.invalid".to_owned()]).expect("a name");
        let request: CertificateSigningRequest = params.serialize_request(&csr).expect("a request");
        request.der().to_vec()
    }

    pub(crate) fn enrolment(&self, certificates: Vec<Vec<u8>>) -> Enrolment {
        Enrolment {
            format: EnrolmentFormat::V1,
            certificates: Certificates::new(certificates).expect("few and short"),
            ek: Hex::new(self.ek_area().write()).expect("short"),
            ak: Hex::new(self.ak_area().write()).expect("short"),
            tls: Hex::new(self.tls_area().write()).expect("short"),
            nonce: Hex::new(NONCE).expect("32 bytes"),
            certified: self.signed(&self.certification()),
            request: Hex::new(self.request()).expect("short"),
        }
    }

    /// The certificate parameters of this endorsement key, as a maker would set them.
    pub(crate) fn leaf(&self) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name = named("TPM");
        params.key_usages = vec![KeyUsagePurpose::KeyAgreement];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::Other(vec![2, 23, 133, 8, 1])];
        params
    }

    pub(crate) fn sec1(&self) -> Vec<u8> {
        let (x, y) = point(&SigningKey::from(&self.ek));
        [&[4][..], &x, &y].concat()
    }

    /// TPM2_ActivateCredential, for a key of this name.
    pub(crate) fn activate(&self, credential: &Credential, name: &KeyName) -> Option<Answer> {
        let mut reader = Reader::of(credential.secret.as_bytes());
        let (x, y) = (reader.scalar("x").ok()?, reader.scalar("y").ok()?);
        let theirs = p256::PublicKey::from_sec1_bytes(&[&[4][..], &x, &y].concat()).ok()?;
        let shared = p256::ecdh::diffie_hellman(self.ek.to_nonzero_scalar(), theirs.as_affine());
        let own = self.sec1();
        let mut seed = Sha256::new();
        for part in [&[0, 0, 0, 1][..], shared.raw_secret_bytes(), b"IDENTITY\0", &x, &own[1..33]] {
            seed.update(part);
        }
        let seed = seed.finalize();
        let mac = |key: &[u8], parts: &[&[u8]]| {
            let mut mac = <Hmac<Sha256> as Mac>::new_from_slice(key).expect("any length");
            parts.iter().for_each(|part| mac.update(part));
            mac.finalize().into_bytes()
        };
        let integrity_key = mac(&seed, &[&[0, 0, 0, 1], b"INTEGRITY\0", &[0, 0, 1, 0]]);
        let storage_key = mac(&seed, &[&[0, 0, 0, 1], b"STORAGE\0", name.as_bytes(), &[0, 0, 0, 128]]);
        let (integrity, encrypted) = credential.blob.as_bytes().split_at_checked(34)?;
        if mac(&integrity_key, &[encrypted, name.as_bytes()])[..] != integrity[2..] {
            return None;
        }
        let mut secret = encrypted.to_vec();
        cfb_mode::Decryptor::<Aes128>::new_from_slices(&storage_key[..16], &[0; 16]).ok()?.decrypt(&mut secret);
        Answer::new(secret.get(2..)?).ok()
    }
}

pub(crate) fn signature_bytes(signature: &Signature) -> Vec<u8> {
    let (r, s) = signature.split_bytes();
    [&[0, 0x18, 0, 0x0b][..], &sized(&r), &sized(&s)].concat()
}

pub(crate) fn pcrs() -> PcrValues {
    PcrValues::new([(7, [7; 32]), (0, [1; 32]), (11, [11; 32]), (23, [0; 32])]).expect("four PCRs")
}

// === impl Area ===

impl Area {
    fn signing(x: Vec<u8>, y: Vec<u8>) -> Area {
        let (symmetric, scheme) = (vec![0x10], vec![0x18, 0x0b]);
        Area { kind: 0x23, name_alg: 0x0b, attributes: 0, symmetric, scheme, curve: 3, kdf: 0x10, x, y }
    }

    pub(crate) fn write(&self) -> Vec<u8> {
        let words = |words: &[u16]| words.iter().flat_map(|word| word.to_be_bytes()).collect::<Vec<u8>>();
        let head = [self.kind, self.name_alg];
        let policy = sized(&[0xcc; 32]);
        let attributes = self.attributes.to_be_bytes().to_vec();
        let curve = words(&[self.curve, self.kdf]);
        let (x, y) = (sized(&self.x), sized(&self.y));
        [words(&head), attributes, policy, words(&self.symmetric), words(&self.scheme), curve, x, y].concat()
    }
}

// === impl Statement ===

impl Statement {
    pub(crate) fn write(&self) -> Vec<u8> {
        let Clock { ms, resets, restarts, is_safe } = self.clock;
        let clock = [&ms.to_be_bytes()[..], &resets.to_be_bytes(), &restarts.to_be_bytes(), &[u8::from(is_safe)]];
        let head = [&self.magic.to_be_bytes()[..], &self.kind.to_be_bytes()].concat();
        let firmware = 0x2026_u64.to_be_bytes().to_vec();
        [head, sized(&self.signer), sized(&self.nonce), clock.concat(), firmware, self.body.clone()].concat()
    }
}

// === impl Authority ===

impl Authority {
    /// One that signs itself.
    pub(crate) fn root(name: &str) -> Authority {
        let (params, key) = (Authority::params(name), KeyPair::generate().expect("a key"));
        let certificate = params.self_signed(&key).expect("a certificate").der().to_vec();
        Authority { certificate, issuer: Issuer::new(params, key) }
    }

    /// One below `self`.
    pub(crate) fn below(&self, params: CertificateParams) -> Authority {
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate").der().to_vec();
        Authority { certificate, issuer: Issuer::new(params, key) }
    }

    pub(crate) fn params(name: &str) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name = named(name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params
    }

    /// A certificate of an endorsement key.
    pub(crate) fn issue(&self, params: &CertificateParams, soft: &Soft) -> Vec<u8> {
        let certificate: Certificate = params.signed_by(&Public(&soft.sec1()), &self.issuer).expect("a certificate");
        certificate.der().to_vec()
    }
}

pub(crate) fn named(name: &str) -> rcgen::DistinguishedName {
    let mut names = rcgen::DistinguishedName::new();
    names.push(DnType::CommonName, name);
    names
}

/// `days` after [`NOW`].
pub(crate) fn days(params: &mut CertificateParams, from: i64, until: i64) {
    let day = |days: i64| {
        let seconds = u64::try_from(NOW + days * 86_400).expect("after 1970");
        (std::time::UNIX_EPOCH + Duration::from_secs(seconds)).into()
    };
    params.not_before = day(from);
    params.not_after = day(until);
}

impl PublicKeyData for Public<'_> {
    fn der_bytes(&self) -> &[u8] {
        self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

impl PublicKeyData for Csr<'_> {
    fn der_bytes(&self) -> &[u8] {
        &self.1
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

impl rcgen::SigningKey for Csr<'_> {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        let signature: DerSignature = self.0.sign(message);
        Ok(signature.as_bytes().to_vec())
    }
}
