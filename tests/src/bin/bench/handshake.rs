//! TLS handshakes in which the client proves itself: with the rig's key behind the signer's socket, sealed in a TPM or
//! in software, and with a key in the client's own memory. All shake hands with one server, in turns.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair,
};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned, version};
use signer::tls::{RigKey, client_config};

use crate::Figure;
use crate::identity::Home;

/// The signer gives the TPM sixty signatures a minute.
const ROUNDS: usize = 50;
const PATIENCE: Duration = Duration::from_secs(10);
const SERVER: &str = "fleet.example";

/// An authority, and a server that asks its clients for a certificate of it.
struct Fleet {
    issuer: Issuer<'static, KeyPair>,
    roots: RootCertStore,
    address: SocketAddr,
}

/// Connection, full handshake and four bytes there and back, for each kind of key.
pub(crate) async fn measure() -> Result<Vec<Figure>> {
    tokio::task::spawn_blocking(shake_hands).await?
}

fn shake_hands() -> Result<Vec<Figure>> {
    let fleet = Fleet::open()?;
    let homes = [Home::new(true, true)?, Home::new(false, true)?];
    let _signers = [homes[0].start()?, homes[1].start()?];
    let configs = [fleet.rig(&homes[0])?, fleet.rig(&homes[1])?, fleet.plain()?];
    let mut took = [const { Vec::new() }; 3];
    for _ in 0..ROUNDS {
        for (config, took) in configs.iter().zip(&mut took) {
            took.push(fleet.greet(config)?);
        }
    }
    let [tpm, socket, own] = took;
    let ratio = |samples: &[f64]| samples.iter().zip(&own).map(|(sample, own)| sample / own).collect();
    let (tpm_ratio, socket_ratio) = (ratio(&tpm), ratio(&socket));
    let figure = |what: &str, unit, samples, bound| Figure { what: what.to_owned(), unit, samples, bound };
    let emulator = "the emulator's P-256; chips sign a few times a second";
    Ok(vec![
        figure("handshake, key in a TPM", "ms", tpm, emulator),
        figure("handshake, key in software behind the signer's socket", "ms", socket, "P-256 and TLS on two cores"),
        figure("handshake, key in the client's own memory", "ms", own, "P-256 and TLS on two cores"),
        figure("key in a TPM / key in the client's memory", "x", tpm_ratio, emulator),
        figure(
            "key behind the socket / key in the client's memory",
            "x",
            socket_ratio,
            "a socket, P-256 in portable code",
        ),
    ])
}

// === impl Fleet ===

impl Fleet {
    fn open() -> Result<Fleet> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate()?;
        let root = params.self_signed(&key)?;
        let issuer = Issuer::new(params, key);
        let mut roots = RootCertStore::empty();
        roots.add(root.der().clone())?;
        let own = KeyPair::generate()?;
        let certificate = CertificateParams::new([SERVER.to_owned()])?.signed_by(&own, &issuer)?;
        let clients =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots.clone()), Arc::new(default_provider()))
                .build()?;
        let server = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(&[&version::TLS13])?
            .with_client_cert_verifier(clients)
            .with_single_cert(vec![certificate.der().clone()], PrivatePkcs8KeyDer::from(own.serialize_der()).into())?;
        let (server, listener) = (Arc::new(server), TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?);
        let address = listener.local_addr()?;
        // It serves until the process ends.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // What goes wrong here is seen at the other end.
                let _ = answer(Arc::clone(&server), stream);
            }
        });
        Ok(Fleet { issuer, roots, address })
    }

    fn rig(&self, home: &Home) -> Result<Arc<ClientConfig>> {
        let key = RigKey::connect(&home.socket())?;
        let mut request = CertificateSigningRequestParams::from_der(&key.request().into())?;
        request.params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let certificate: CertificateDer<'static> = request.signed_by(&self.issuer)?.der().clone();
        Ok(Arc::new(client_config(key, vec![certificate], self.roots.clone())?))
    }

    fn plain(&self) -> Result<Arc<ClientConfig>> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(Vec::new())?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&key, &self.issuer)?;
        let mut config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(&[&version::TLS13])?
            .with_root_certificates(self.roots.clone())
            .with_client_auth_cert(
                vec![certificate.der().clone()],
                PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
            )?;
        config.resumption = rustls::client::Resumption::disabled();
        Ok(Arc::new(config))
    }

    /// Milliseconds from the connection until the answer is here.
    fn greet(&self, config: &Arc<ClientConfig>) -> Result<f64> {
        let began = Instant::now();
        let connection = ClientConnection::new(Arc::clone(config), ServerName::try_from(SERVER)?)?;
        let stream = TcpStream::connect(self.address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut stream = StreamOwned::new(connection, stream);
        stream.write_all(b"ping").context("the server takes the rig's certificate")?;
        let mut bytes = [0; 4];
        stream.read_exact(&mut bytes)?;
        (&bytes == b"ping").then(|| began.elapsed().as_secs_f64() * 1e3).ok_or_else(|| anyhow!("another echo"))
    }
}

fn answer(server: Arc<ServerConfig>, stream: TcpStream) -> Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut stream = StreamOwned::new(ServerConnection::new(server)?, stream);
    let mut bytes = [0; 4];
    stream.read_exact(&mut bytes)?;
    stream.write_all(&bytes)?;
    Ok(())
}
