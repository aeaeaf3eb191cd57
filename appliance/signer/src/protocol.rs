//! What is said on the signer's socket.
//!
//! A message is one frame: its length in bytes, then that many bytes of JSON.
//!
//! ```text
//!  0        4                    4+n
//!  ├────────┼─────────────────────┤   n: u32, little endian, 1 ..= FRAME_BYTES_MAX
//!  │   n    │  JSON, UTF-8        │   request  "identity" | {"sign":{"tx":{…}}} | {"quote":{"nonce":"…"}} | …
//!  └────────┴─────────────────────┘   answer   {"identity":{…}} | {"signed":{…}} | {"refused":{…}} | …
//! ```
//!
//! One request, one answer, in order. Both ends ship in one image, so a message carries no version. A length
//! that is zero or too long ends the connection after an answer, since what follows cannot be framed.

use std::io;

use alloy::consensus::TypedTransaction;
use alloy::primitives::{Address, B256, Bytes};
use attest::evidence::Nonce;
use attest::{Credential, Enrolment, Quote};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::identity::{Identity, KeyState};
use crate::policy::Rule;

/// Longest JSON of one message, in bytes. Calldata is at most 8 KiB, which is 16 KiB in hexadecimal.
pub const FRAME_BYTES_MAX: u32 = 64 * 1024;

/// What a client asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Who signs here.
    Identity,
    /// Sign this transaction, if the policy allows it. Asking twice gives the same bytes.
    Sign {
        /// The transaction: legacy with a chain id, or EIP-1559. The signer changes nothing in it.
        tx: Box<TypedTransaction>,
    },
    /// The rig's keys and what its TPM says for them.
    Enrol {
        /// The verifier's, 16 to 64 bytes.
        nonce: Nonce,
    },
    /// What the TPM measured at this start.
    Quote {
        /// The verifier's, 16 to 64 bytes.
        nonce: Nonce,
    },
    /// The secret that the verifier encrypted to this TPM and its attestation key.
    Activate {
        /// The verifier's challenge.
        credential: Box<Credential>,
    },
    /// The public half of the TLS key, and a request for its certificate.
    TlsIdentity,
    /// A proof that this rig has its TLS key, for the connection that `message` sums up.
    TlsSign {
        /// The content that a TLS 1.3 client signs (RFC 8446, section 4.4.3); nothing else is signed.
        message: Bytes,
    },
}

/// What the signer answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Answer {
    /// To [`Request::Identity`].
    Identity(Identity),
    /// To [`Request::Sign`].
    Signed(Signed),
    /// To [`Request::Sign`]: a rule forbids it.
    Refused {
        /// The first rule that is broken.
        rule: Rule,
        /// What was found and what would have been allowed.
        why: String,
    },
    /// The key is closed and there is no successor. Nothing was signed.
    Closed {
        /// Why.
        state: KeyState,
        /// The address of the closed key, where its file still tells.
        address: Option<Address>,
    },
    /// To [`Request::Enrol`].
    Enrolment(Box<Enrolment>),
    /// To [`Request::Quote`].
    Quote(Box<Quote>),
    /// To [`Request::Activate`].
    Activated(attest::Answer),
    /// To [`Request::TlsIdentity`].
    TlsIdentity(TlsIdentity),
    /// To [`Request::TlsSign`].
    TlsSignature {
        /// ECDSA with P-256 over SHA-256 of the message, low s, DER.
        der: Bytes,
    },
    /// The TPM did not do it. Nothing was signed, and asking again is safe.
    Failed {
        /// What the TPM said.
        why: String,
    },
    /// The request is not in this protocol. Nothing was signed.
    Malformed {
        /// What the parser found.
        why: String,
    },
    /// All connections are taken; this one ends. Try again later.
    Busy,
}

/// A signed transaction, ready to be stored and broadcast.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signed {
    /// EIP-2718 bytes for `eth_sendRawTransaction`.
    pub raw: Bytes,
    /// The transaction hash: Keccak-256 of `raw`.
    pub hash: B256,
}

/// The public half of the rig's TLS key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsIdentity {
    /// SubjectPublicKeyInfo, DER.
    pub spki: Bytes,
    /// PKCS#10 request, DER, whose subject is the provider's address.
    pub csr: Bytes,
}

/// A frame that could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The stream failed, or ended inside a frame.
    #[error("move a frame over the signer socket")]
    Stream(#[source] io::Error),
    /// The length is zero or above [`FRAME_BYTES_MAX`]; the stream cannot be followed further.
    #[error("a frame of {bytes} bytes, it has 1 to {FRAME_BYTES_MAX}")]
    Length {
        /// The length that was announced, or that the message would have.
        bytes: u64,
    },
    /// A whole frame that holds no message of this protocol. The stream is still in step.
    #[error("a frame that is no message")]
    Message(#[source] serde_json::Error),
}

/// Reads the length of the next frame, or `None` if the peer closed between frames.
/// Errors: [`FrameError::Stream`], [`FrameError::Length`].
pub async fn read_length<S: AsyncRead + Unpin>(stream: &mut S) -> Result<Option<u32>, FrameError> {
    let mut length = [0; 4];
    if stream.read(&mut length[..1]).await.map_err(FrameError::Stream)? == 0 {
        return Ok(None);
    }
    stream.read_exact(&mut length[1..]).await.map_err(FrameError::Stream)?;
    length_of(length).map(Some)
}

/// Reads the message of a frame of `bytes` bytes. Errors: [`FrameError::Stream`], [`FrameError::Message`].
pub async fn read_message<M, S>(stream: &mut S, bytes: u32) -> Result<M, FrameError>
where
    M: DeserializeOwned,
    S: AsyncRead + Unpin,
{
    let mut json = vec![0; bytes as usize];
    stream.read_exact(&mut json).await.map_err(FrameError::Stream)?;
    serde_json::from_slice(&json).map_err(FrameError::Message)
}

/// Writes `message` as one frame. Errors: every variant of [`FrameError`].
pub async fn write_message<M, S>(stream: &mut S, message: &M) -> Result<(), FrameError>
where
    M: Serialize,
    S: AsyncWrite + Unpin,
{
    stream.write_all(&frame(message)?).await.map_err(FrameError::Stream)
}

/// What [`read_length`] reads, on a stream of the standard library. The same errors.
pub fn read_length_blocking(stream: &mut impl io::Read) -> Result<Option<u32>, FrameError> {
    let mut length = [0; 4];
    if stream.read(&mut length[..1]).map_err(FrameError::Stream)? == 0 {
        return Ok(None);
    }
    stream.read_exact(&mut length[1..]).map_err(FrameError::Stream)?;
    length_of(length).map(Some)
}

/// What [`read_message`] reads, on a stream of the standard library. The same errors.
pub fn read_message_blocking<M: DeserializeOwned>(stream: &mut impl io::Read, bytes: u32) -> Result<M, FrameError> {
    let mut json = vec![0; bytes as usize];
    stream.read_exact(&mut json).map_err(FrameError::Stream)?;
    serde_json::from_slice(&json).map_err(FrameError::Message)
}

/// `message` as one frame. Errors: [`FrameError::Length`], [`FrameError::Message`].
pub fn frame(message: &impl Serialize) -> Result<Vec<u8>, FrameError> {
    let json = serde_json::to_vec(message).map_err(FrameError::Message)?;
    let bytes = json.len() as u64;
    let length = match u32::try_from(bytes) {
        Ok(length @ 1..=FRAME_BYTES_MAX) => length,
        Ok(_) | Err(_) => return Err(FrameError::Length { bytes }),
    };
    Ok([&length.to_le_bytes()[..], &json].concat())
}

fn length_of(length: [u8; 4]) -> Result<u32, FrameError> {
    match u32::from_le_bytes(length) {
        bytes @ 1..=FRAME_BYTES_MAX => Ok(bytes),
        bytes => Err(FrameError::Length { bytes: bytes.into() }),
    }
}

#[cfg(test)]
mod tests {
    use alloy::consensus::TxEip1559;
    use alloy::primitives::{Address, TxKind, U256};

    use super::*;

    fn check(message: &Request, json: &str) {
        assert_eq!(serde_json::to_string(message).expect("json"), json);
        assert_eq!(&serde_json::from_str::<Request>(json).expect("a request"), message);
    }

    #[test]
    fn a_request_reads_as_the_module_doc_says() {
        check(&Request::Identity, "\"identity\"");
        let tx = TxEip1559 {
            chain_id: 200_820_172_034,
            nonce: 1,
            gas_limit: 2,
            max_fee_per_gas: u128::MAX,
            max_priority_fee_per_gas: 3,
            to: TxKind::Call(Address::repeat_byte(0x11)),
            value: U256::MAX,
            ..TxEip1559::default()
        };
        let tx = Box::new(TypedTransaction::from(tx));
        let json = serde_json::to_string(&Request::Sign { tx: tx.clone() }).expect("json");
        assert!(json.starts_with(r#"{"sign":{"tx":{"type":"0x2","chainId":"0x2ec1d0a502""#), "{json}");
        check(&Request::Sign { tx }, &json);
        let nonce = Nonce::new([7; 16]).expect("16 bytes");
        check(&Request::Quote { nonce }, r#"{"quote":{"nonce":"07070707070707070707070707070707"}}"#);
        check(&Request::TlsSign { message: Bytes::from(vec![32]) }, r#"{"tls_sign":{"message":"0x20"}}"#);
    }

    #[test]
    fn unknown_requests_and_fields_are_refused() {
        for json in [
            "\"key\"",
            "{\"quote\":{\"nonce\":\"00\"}}",
            "{\"sign\":{}}",
            "{\"sign\":{\"hash\":\"0x00\"}}",
            "null",
            "[]",
            "{\"identity\":1}",
        ] {
            serde_json::from_str::<Request>(json).expect_err(json);
        }
    }

    #[tokio::test]
    async fn a_frame_is_a_little_endian_length_and_json() {
        let mut bytes = Vec::new();
        write_message(&mut bytes, &Request::Identity).await.expect("write");
        assert_eq!(bytes, b"\x0a\0\0\0\"identity\"");
        let mut stream = &bytes[..];
        let length = read_length(&mut stream).await.expect("a length").expect("a frame");
        assert_eq!(read_message::<Request, _>(&mut stream, length).await.expect("a message"), Request::Identity);
        assert_eq!(read_length(&mut stream).await.expect("the end"), None);
    }

    #[tokio::test]
    async fn lengths_outside_the_bounds_are_named() {
        for bytes in [0, FRAME_BYTES_MAX + 1, u32::MAX] {
            let error = read_length(&mut &bytes.to_le_bytes()[..]).await.expect_err("a bad length");
            assert!(matches!(error, FrameError::Length { bytes: found } if found == u64::from(bytes)));
        }
        let why = "x".repeat(FRAME_BYTES_MAX as usize);
        let error = write_message(&mut Vec::new(), &Answer::Malformed { why }).await.expect_err("too long");
        assert!(matches!(error, FrameError::Length { .. }));
    }

    #[tokio::test]
    async fn a_stream_that_ends_inside_a_frame_is_an_error() {
        assert!(matches!(read_length(&mut &b"\x0a\0"[..]).await, Err(FrameError::Stream(_))));
        let read = read_message::<Request, _>(&mut &b"\"iden"[..], 10).await;
        assert!(matches!(read, Err(FrameError::Stream(_))));
    }
}
