//! The exported functions, by what they are about. Each takes its arguments apart and calls the safe code.
//!
//! Names and signatures are those of `nvml.h`; devices and event sets are numbers as wide as a pointer.
#![expect(unsafe_code, reason = "an exported name is `unsafe(no_mangle)`: no other library here defines it")]

mod health;
mod inventory;
mod settings;
mod system;
mod telemetry;

use fake_gpu_edge::OutText;

use crate::code::{Answer, Code};

/// Functions of the form `name(device, result *)`: the expression gives the result or a code.
macro_rules! getters {
    ($($name:ident: $result:ty = |$device:ident| $value:expr;)*) => {$(
        #[unsafe(no_mangle)]
        extern "C" fn $name(device: usize, result: fake_gpu_edge::Out<$result>) -> u32 {
            crate::machine::ask(stringify!($name), device, |$device| {
                let value: crate::code::Answer<$result> = $value;
                result.set(value?).ok_or(crate::code::Code::INVALID_ARGUMENT)
            })
        }
    )*};
}
pub(crate) use getters;

/// Writes a name into the caller's room.
fn write(target: OutText, room: u32, text: &str) -> Answer {
    match target.set(usize::try_from(room).unwrap_or(0), text) {
        Some(true) => Ok(()),
        Some(false) => Err(Code::INSUFFICIENT_SIZE),
        None => Err(Code::INVALID_ARGUMENT),
    }
}
