//! The files with which a firmware in set-up mode takes our keys.
//!
//! ```text
//! list   16 type (X.509) | 4 list size | 4 header size 0 | 4 entry size | 16 owner | certificate      one per certificate
//! auth   16 time | 4 size | 2 revision 0x0200 | 2 type 0x0ef1 | 16 type (PKCS#7) | SignedData | list
//! signed UTF-16 name | 16 vendor GUID | 4 attributes | 16 time | list
//! ```
//!
//! Invariants: numbers are little-endian and a GUID's first three fields too, as UEFI has it; PK and KEK are signed by PK,
//! db by KEK; the time is a constant, so that the same keys make the same files, and a later change of a variable must
//! carry a later one. Source: UEFI 2.10, 8.2.2 and 32.4.1.

use layout::Guid;
use x509_cert::Certificate;

use super::certificate::{Pair, der_of};
use crate::sign::pkcs7;

/// Non-volatile, boot services, runtime, time-based authenticated write.
const ATTRIBUTES: u32 = 0x27;
/// 2026-01-01 00:00:00: year, month, day, then zeroes.
const TIME: [u8; 16] = [0xea, 0x07, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
const CERTIFICATE_REVISION: u16 = 0x0200;
const CERTIFICATE_TYPE_GUID: u16 = 0x0ef1;

const TYPE_X509: Guid = Guid::from_u128(0xa5c0_59a1_94e4_4aa7_87b5_ab15_5c2b_f072);
const TYPE_PKCS7: Guid = Guid::from_u128(0x4aaf_d29d_68df_49ee_8aa9_347d_3756_65a7);
const GLOBAL_VARIABLE: Guid = Guid::from_u128(0x8be4_df61_93ca_11d2_aa0d_00e0_9803_2b8c);
const SECURITY_DATABASE: Guid = Guid::from_u128(0xd719_b2cb_3d3a_4596_a3bc_dad0_0e67_656f);
/// Who put our certificates there: a label that firmware shows and nothing checks.
const OWNER_LABEL: &str = "secure boot owner";

/// A variable of the firmware that holds certificates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variable {
    /// Whose signature a loader or UKI may carry.
    Database,
    /// Who may change db.
    KeyExchange,
    /// Who may change KEK, and the switch: firmware leaves set-up mode when it is set.
    Platform,
}

/// One variable's new value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enrolment {
    /// Which.
    pub variable: Variable,
    /// The signature lists alone.
    pub list: Vec<u8>,
    /// The same as an authenticated write.
    pub signed: Vec<u8>,
}

// === impl Variable ===

impl Variable {
    /// In the order of writing: the platform key closes the door behind itself.
    pub const ALL: [Variable; 3] = [Variable::Database, Variable::KeyExchange, Variable::Platform];

    /// As the firmware spells it.
    pub fn name(self) -> &'static str {
        match self {
            Variable::Database => "db",
            Variable::KeyExchange => "KEK",
            Variable::Platform => "PK",
        }
    }

    fn vendor(self) -> Guid {
        match self {
            Variable::Database => SECURITY_DATABASE,
            Variable::KeyExchange | Variable::Platform => GLOBAL_VARIABLE,
        }
    }
}

// === impl Enrolment ===

impl Enrolment {
    /// All three, in the order of writing. `trusted` goes to db.
    pub(crate) fn all(platform: &Pair, exchange: &Pair, trusted: &[Certificate]) -> [Enrolment; 3] {
        let new = |variable, certificates: &[Certificate], signer: &Pair| {
            let list: Vec<u8> = certificates.iter().flat_map(signature_list).collect();
            Enrolment { variable, signed: authenticated(variable, &list, signer), list }
        };
        [
            new(Variable::Database, trusted, exchange),
            new(Variable::KeyExchange, &[exchange.certificate().clone()], platform),
            new(Variable::Platform, &[platform.certificate().clone()], platform),
        ]
    }
}

fn signature_list(certificate: &Certificate) -> Vec<u8> {
    const HEAD_BYTES: usize = 28;
    const OWNER_BYTES: usize = 16;
    let der = der_of(certificate);
    let entry_bytes = OWNER_BYTES + der.len();
    [
        &TYPE_X509.to_disk()[..],
        &size(HEAD_BYTES + entry_bytes),
        &size(0),
        &size(entry_bytes),
        &Guid::derived(OWNER_LABEL).to_disk(),
        &der,
    ]
    .concat()
}

fn authenticated(variable: Variable, list: &[u8], signer: &Pair) -> Vec<u8> {
    const HEAD_BYTES: usize = 24;
    let name: Vec<u8> = variable.name().encode_utf16().flat_map(u16::to_le_bytes).collect();
    let message = [&name[..], &variable.vendor().to_disk(), &ATTRIBUTES.to_le_bytes(), &TIME, list].concat();
    let signature = pkcs7::detached(&message, signer);
    [
        &TIME[..],
        &size(HEAD_BYTES + signature.len()),
        &CERTIFICATE_REVISION.to_le_bytes(),
        &CERTIFICATE_TYPE_GUID.to_le_bytes(),
        &TYPE_PKCS7.to_disk(),
        &signature,
        list,
    ]
    .concat()
}

fn size(bytes: usize) -> [u8; 4] {
    u32::try_from(bytes).expect("a certificate has some KiB").to_le_bytes()
}
