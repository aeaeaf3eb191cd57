//! From a field to a place and a mask, slowly.

use argon2::{Algorithm, Argon2, Block, Params, Version};
use k256::Scalar;
use zeroize::Zeroizing;

use super::SALT_BYTES;
use super::polynomial::{Point, reduce};
use crate::fields::{Field, Fields};

/// Memory of one evaluation, KiB: 19 MiB with two passes is the first choice of OWASP's password guide for Argon2id.
/// Part of the format, with the next two: version 1 means these.
const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;
const LANES: u32 = 1;

/// Two scalars.
const OUTPUT_BYTES: usize = 64;

/// What a field is stretched to. Who does not know the field knows neither.
pub(super) struct Stretched {
    /// Where on the polynomial the field stands.
    pub(super) x: Scalar,
    /// What hides the value there.
    pub(super) mask: Scalar,
}

/// Each field's place, with the value that `value` gives for it.
pub(super) fn points(
    fields: &Fields,
    salt: &[u8; SALT_BYTES],
    value: impl Fn(&Stretched) -> Scalar,
) -> Zeroizing<Vec<Point>> {
    let params = Params::new(MEMORY_KIB, PASSES, LANES, Some(OUTPUT_BYTES)).expect("they are within Argon2's bounds");
    let mut memory = vec![Block::default(); params.block_count()];
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    let mut point = |field: &Field| {
        let stretched = stretch(&argon2, &mut memory, field, salt);
        Point { x: stretched.x, y: value(&stretched) }
    };
    Zeroizing::new(fields.present().iter().map(&mut point).collect())
}

fn stretch(argon2: &Argon2<'_>, memory: &mut [Block], field: &Field, salt: &[u8; SALT_BYTES]) -> Stretched {
    let named = Zeroizing::new(format!("{}|{}", field.kind().name(), field.value()));
    let mut output = Zeroizing::new([0; OUTPUT_BYTES]);
    let filled = argon2.hash_password_into_with_memory(named.as_bytes(), salt, output.as_mut_slice(), memory);
    filled.expect("a field, a salt and an output are within Argon2's bounds");
    let (place, mask) = output.split_at(OUTPUT_BYTES / 2);
    let half = |bytes: &[u8]| Zeroizing::new(<[u8; 32]>::try_from(bytes).expect("half of the output"));
    Stretched { x: reduce(&half(place)), mask: reduce(&half(mask)) }
}
