//! A launch's arguments, and every access to them checked.
//!
//! A kernel reaches a buffer only through the methods here: an index outside it ends the launch as the same access ends
//! it on a GPU, except that a GPU may also find other memory there and read that.

/// What a launch gives a kernel at one place of its parameter list.
#[derive(Debug)]
pub enum Argument<'a> {
    /// Device memory from the pointer's address to the end of its allocation.
    Buffer(&'a mut [u8]),
    /// The bytes of a number, little-endian.
    Scalar(&'a [u8]),
}

/// An access outside a buffer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outside;

// === impl Argument ===

impl Argument<'_> {
    pub(crate) fn f32(&self, index: usize) -> Result<f32, Outside> {
        self.read(index).map(f32::from_le_bytes)
    }

    pub(crate) fn u32(&self, index: usize) -> Result<u32, Outside> {
        self.read(index).map(u32::from_le_bytes)
    }

    pub(crate) fn f16(&self, index: usize) -> Result<f32, Outside> {
        self.read(index).map(half::f16::from_le_bytes).map(f32::from)
    }

    pub(crate) fn set_f32(&mut self, index: usize, value: f32) -> Result<(), Outside> {
        self.write(index, value.to_le_bytes())
    }

    pub(crate) fn set_u8(&mut self, index: usize, value: u8) -> Result<(), Outside> {
        self.write(index, [value])
    }

    /// A scalar's value as a count. The launch checked its size before.
    pub(crate) fn count(&self) -> Result<usize, Outside> {
        let count = self.u32(0)?;
        usize::try_from(count).map_err(|_| Outside)
    }

    fn read<const N: usize>(&self, index: usize) -> Result<[u8; N], Outside> {
        let bytes: &[u8] = match self {
            Argument::Buffer(bytes) => bytes,
            Argument::Scalar(bytes) => bytes,
        };
        let at = index.checked_mul(N).ok_or(Outside)?;
        bytes.get(at..).and_then(|rest| rest.first_chunk()).copied().ok_or(Outside)
    }

    fn write<const N: usize>(&mut self, index: usize, value: [u8; N]) -> Result<(), Outside> {
        let Argument::Buffer(bytes) = self else { return Err(Outside) };
        let at = index.checked_mul(N).ok_or(Outside)?;
        *bytes.get_mut(at..).and_then(|rest| rest.first_chunk_mut()).ok_or(Outside)? = value;
        Ok(())
    }
}
