//! What a kernel gets: its arguments, where the driver looks for them.
//!
//! The driver is given a table of addresses, one for each argument. It is not told how many there are, nor how long
//! each is: it reads as many as the kernel takes, and of each what the kernel declares. That was compared with the
//! plan where a module tells, but machine code need not tell. So each argument has a place of 8 bytes, and behind the
//! last, in the table as in the places, are more zeros than any kernel can take.

use std::cell::Cell;
use std::ffi::c_void;

use bundle::{Argument, View};

use crate::driver::DevicePointer;

/// The most arguments that a launch of a bundle has.
const ARGUMENTS_MAX: usize = 64;

/// More than the parameters of any kernel take in bytes, and so more than there can be of them: 32,764 from `sm_70`
/// on, 4,096 before (CUDA C++ guide, "function parameters").
const PARAMETER_BYTES_MAX: usize = 32_768;

/// The arguments of one launch, and then of the next: a plan has many.
#[derive(Debug)]
pub(crate) struct Arguments {
    /// Of 8 bytes each. Cells, because the table below points to them for as long as they are.
    places: &'static [Cell<u64>],
    table: Vec<*mut c_void>,
}

/// A launch with more arguments than a bundle may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("more than {ARGUMENTS_MAX} arguments")]
pub(crate) struct TooManyArguments;

// === impl Arguments ===

impl Arguments {
    /// None yet. What this takes is never given back; a worker makes one of these.
    pub(crate) fn new() -> Self {
        let zeros = PARAMETER_BYTES_MAX / size_of::<u64>();
        let places: &'static [Cell<u64>] = Box::leak(vec![Cell::new(0); ARGUMENTS_MAX + zeros].into_boxed_slice());
        let behind = places[ARGUMENTS_MAX].as_ptr();
        let place = |index| places[..ARGUMENTS_MAX].get(index).map_or(behind, Cell::as_ptr).cast();
        Self { places, table: (0..ARGUMENTS_MAX + PARAMETER_BYTES_MAX).map(place).collect() }
    }

    /// Replaces what was there by `arguments`, with the addresses of the views in `buffers`.
    ///
    /// # Errors
    /// [`TooManyArguments`]; then nothing is changed.
    pub(crate) fn set(&mut self, arguments: &[Argument], buffers: &[DevicePointer]) -> Result<(), TooManyArguments> {
        if arguments.len() > ARGUMENTS_MAX {
            return Err(TooManyArguments);
        }
        let values = arguments.iter().map(|argument| match argument {
            Argument::View { view, access: _ } => address(view, buffers).address(),
            Argument::Scalar(scalar) => in_place(&scalar.to_le_bytes()),
        });
        for (place, value) in self.places[..ARGUMENTS_MAX].iter().zip(values.chain(std::iter::repeat(0))) {
            place.set(value);
        }
        Ok(())
    }

    /// What the driver takes: good for reading as many parameters as a kernel can have.
    pub(crate) fn table(&self) -> &[*mut c_void] {
        &self.table
    }
}

/// Bytes at the beginning of a place. Devices are little-endian, and so are the machines that they are in.
fn in_place(bytes: &[u8]) -> u64 {
    let mut place = [0; 8];
    place[..bytes.len()].copy_from_slice(bytes);
    u64::from_le_bytes(place)
}

/// Where a view begins on the device. Views of a plan name buffers of it, and stay within them.
pub(crate) fn address(view: &View, buffers: &[DevicePointer]) -> DevicePointer {
    buffers[view.buffer].offset(view.offset_bytes)
}

#[cfg(test)]
mod tests {
    use bundle::{Access, Scalar};

    use super::*;

    fn view(buffer: usize, offset_bytes: u64) -> Argument {
        Argument::View { view: View { buffer, offset_bytes, bytes: 4 }, access: Access::Read }
    }

    #[test]
    fn each_argument_is_at_the_beginning_of_its_place_and_zeros_are_behind() {
        let buffers = [DevicePointer::at(0x7000_0000_0000), DevicePointer::at(0x1000)];
        let mut kept = Arguments::new();
        let mut check = |arguments: &[Argument], expected: &[u64]| {
            kept.set(arguments, &buffers).expect("few arguments");
            let places: Vec<u64> = kept.places.iter().map(Cell::get).collect();
            assert_eq!(places[..expected.len()], *expected, "{arguments:?}");
            assert!(places[expected.len()..].iter().all(|place| *place == 0), "something behind {arguments:?}");
        };
        check(&[view(0, 0), Argument::Scalar(Scalar::U32(7))], &[0x7000_0000_0000, 7]);
        check(&[Argument::Scalar(Scalar::I32(-1)), view(1, 8)], &[0xffff_ffff, 0x1008]);
        check(
            &[
                Argument::Scalar(Scalar::F32(1.0)),
                Argument::Scalar(Scalar::I64(-2)),
                Argument::Scalar(Scalar::F64(1.0)),
            ],
            &[0x3f80_0000, 0xffff_ffff_ffff_fffe, 0x3ff0_0000_0000_0000],
        );
        check(&[], &[]);
    }

    #[test]
    fn the_table_points_to_the_places_and_then_to_zeros_with_room_for_the_longest_parameter() {
        let arguments = Arguments::new();
        let first: *mut c_void = arguments.places[0].as_ptr().cast();
        let bytes = arguments.places.len() * 8;
        for (index, pointer) in arguments.table().iter().enumerate() {
            let offset = pointer.addr() - first.addr();
            assert_eq!(offset, index.min(ARGUMENTS_MAX) * 8, "entry {index}");
            assert!(offset + PARAMETER_BYTES_MAX <= bytes, "entry {index}");
        }
        assert!(arguments.table().len() >= PARAMETER_BYTES_MAX);
    }

    #[test]
    fn more_arguments_than_a_bundle_may_have_are_refused() {
        let mut arguments = Arguments::new();
        let buffers = [DevicePointer::at(1)];
        let most = vec![view(0, 0); ARGUMENTS_MAX];
        assert_eq!(arguments.set(&most, &buffers), Ok(()));
        assert_eq!(arguments.set(&[&most[..], &most[..1]].concat(), &buffers), Err(TooManyArguments));
    }
}
