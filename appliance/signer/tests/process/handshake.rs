//! The rig's TLS key in real handshakes with a server that asks for a certificate.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::JoinHandle;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair,
};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, ProtocolVersion, RootCertStore, ServerConfig};
use rustls::{ServerConnection, StreamOwned};
use signer::tls::{RigKey, TlsError, client_config};

use crate::rig::{Home, PATIENCE};

/// An authority, and the server that it vouches for.
struct Fleet {
    issuer: Issuer<'static, KeyPair>,
    roots: RootCertStore,
    server: Arc<ServerConfig>,
}

/// What a server saw of one client: its subject, or why there was no handshake.
type Seen = Result<String, String>;

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

// === impl Fleet ===

impl Fleet {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let root = params.self_signed(&key).expect("a root");
        let issuer = Issuer::new(params, key);
        let mut roots = RootCertStore::empty();
        roots.add(root.der().clone()).expect("a root");

        let own = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(["fleet.example".to_owned()]).expect("parameters");
        let certificate = params.signed_by(&own, &issuer).expect("a certificate");
        let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots.clone()), provider()).build();
        let server = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_client_cert_verifier(clients.expect("a verifier"))
            .with_single_cert(vec![certificate.der().clone()], PrivatePkcs8KeyDer::from(own.serialize_der()).into())
            .expect("a server");
        Self { issuer, roots, server: Arc::new(server) }
    }

    /// Signs a rig's request, as a fleet server would after an attestation.
    fn certify(&self, key: &RigKey) -> CertificateDer<'static> {
        let request = CertificateSigningRequestParams::from_der(&key.request().into());
        let mut request = request.expect("a request that its own key signed");
        request.params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        request.signed_by(&self.issuer).expect("a certificate").der().clone()
    }

    /// Serves one connection on a thread: a handshake, and four bytes back.
    fn serve(&self) -> (SocketAddr, JoinHandle<Seen>) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let address = listener.local_addr().expect("an address");
        let server = Arc::clone(&self.server);
        let serve = move || {
            let (stream, _) = listener.accept().map_err(|error| error.to_string())?;
            stream.set_read_timeout(Some(PATIENCE)).map_err(|error| error.to_string())?;
            let connection = ServerConnection::new(server).map_err(|error| error.to_string())?;
            let mut stream = StreamOwned::new(connection, stream);
            let mut bytes = [0; 4];
            stream.read_exact(&mut bytes).map_err(|error| error.to_string())?;
            stream.write_all(&bytes).map_err(|error| error.to_string())?;
            assert_eq!(stream.conn.protocol_version(), Some(ProtocolVersion::TLSv1_3));
            assert_eq!(stream.conn.handshake_kind(), Some(HandshakeKind::Full), "nothing is resumed");
            let shown = stream.conn.peer_certificates().map_or(0, <[CertificateDer<'_>]>::len);
            Ok(format!("{shown} certificate"))
        };
        (address, std::thread::spawn(serve))
    }

    /// One connection of a client. Returns what the server saw.
    fn greet(&self, config: &Arc<ClientConfig>) -> Seen {
        let (address, served) = self.serve();
        let greet = || -> std::io::Result<[u8; 4]> {
            let name = ServerName::try_from("fleet.example").expect("a name");
            let connection = ClientConnection::new(Arc::clone(config), name).map_err(std::io::Error::other)?;
            let stream = TcpStream::connect(address)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            let mut stream = StreamOwned::new(connection, stream);
            stream.write_all(b"ping")?;
            let mut bytes = [0; 4];
            stream.read_exact(&mut bytes)?;
            Ok(bytes)
        };
        let greeted = greet();
        let seen = served.join().expect("the server");
        assert_eq!(greeted.is_ok(), seen.is_ok(), "both ends agree: {greeted:?} {seen:?}");
        seen
    }
}

pub(crate) fn shake_hands(home: &Home) {
    let running = home.start();
    let fleet = Fleet::new();
    let key = RigKey::connect(&home.socket()).expect("the rig's key");
    let certificate = fleet.certify(&key);
    let config = client_config(key, vec![certificate.clone()], fleet.roots.clone()).expect("a client");
    let config = Arc::new(config);
    for _ in 0..3 {
        assert_eq!(fleet.greet(&config).as_deref(), Ok("1 certificate"));
    }
    // The key survives the process, and so does what was certified.
    running.kill();
    let _running = home.start();
    let key = RigKey::connect(&home.socket()).expect("the rig's key");
    let config = client_config(key, vec![certificate], fleet.roots.clone()).expect("the same key");
    assert_eq!(fleet.greet(&Arc::new(config)).as_deref(), Ok("1 certificate"));
}

pub(crate) fn a_stolen_certificate_is_useless(victim: &Home, thief: &Home) {
    let (_victim, _thief) = (victim.start(), thief.start());
    let fleet = Fleet::new();
    let certificate = fleet.certify(&RigKey::connect(&victim.socket()).expect("the victim's key"));
    let own = || RigKey::connect(&thief.socket()).expect("the thief's key");
    let error = client_config(own(), vec![certificate.clone()], fleet.roots.clone()).expect_err("another key");
    assert!(error.is_foreign_certificate(), "{error:?}");
    // A thief's software does not check.
    let certified = CertifiedKey::new(vec![certificate], Arc::new(own()));
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(fleet.roots.clone())
        .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
    let seen = fleet.greet(&Arc::new(config)).expect_err("the server finds out");
    assert!(seen.contains("BadSignature") || seen.contains("invalid peer certificate"), "{seen}");
}

#[test]
fn a_rig_with_a_software_key_shakes_hands() {
    shake_hands(&Home::new());
}

#[test]
fn a_stolen_certificate_is_useless_with_another_software_key() {
    a_stolen_certificate_is_useless(&Home::new(), &Home::new());
}

#[test]
fn a_signer_that_is_gone_or_closed_gives_no_proof() {
    let home = Home::new();
    let running = home.start();
    let fleet = Fleet::new();
    let key = RigKey::connect(&home.socket()).expect("the rig's key");
    let certificate = fleet.certify(&key);
    let config = Arc::new(client_config(key, vec![certificate], fleet.roots.clone()).expect("a client"));
    running.kill();
    fleet.greet(&config).expect_err("nobody signs");
    assert!(matches!(RigKey::connect(&home.socket()), Err(TlsError::Unreachable { .. })));
}
