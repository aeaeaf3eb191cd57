//! What is said to the device mapper: one buffer a call, as `linux/dm-ioctl.h` lays it out.
//!
//! ```text
//!   0  version 4.0.0, 3 x u32         48  name, 128 bytes with its zero
//!  12  size of the whole, u32        176  uuid, 129 bytes with its zero
//!  16  where the target begins, u32  305  7 unused
//!  20  targets, u32                  312  the target: start u64, length u64, 8 unused, kind in 16 bytes,
//!  28  flags, u32                         then its line of text with a zero
//!  40  device number, u64
//! ```

/// The buffer of every call; a verity line needs some 400 bytes behind the header.
pub const BUFFER_BYTES: usize = 2048;

/// The size of the header, which is also in the calls' numbers.
pub const HEADER_BYTES: usize = 312;

/// A buffer for one call.
pub type Buffer = [u8; BUFFER_BYTES];

const TARGET_BYTES: usize = 40;
const READ_ONLY: u32 = 1;
const NAME_MAX: usize = 127;
const UUID_MAX: usize = 128;

/// A name or line that does not fit; with the lines that we make it never is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the device mapper takes no {what} of {bytes} bytes")]
pub struct TooLong {
    what: &'static str,
    bytes: usize,
}

/// A header for the device `name`: enough to start it once it has a table.
pub fn resume(name: &str) -> Result<Buffer, TooLong> {
    header(name, "", 0)
}

/// Makes the device.
pub fn create(name: &str, uuid: &str) -> Result<Buffer, TooLong> {
    header(name, uuid, READ_ONLY)
}

/// Gives the device one target of `kind` over `sectors` of 512 bytes.
pub fn load(name: &str, kind: &str, sectors: u64, line: &str) -> Result<Buffer, TooLong> {
    let mut buffer = header(name, "", READ_ONLY)?;
    put(&mut buffer, 20, &1_u32.to_le_bytes());
    let line_at = HEADER_BYTES + TARGET_BYTES;
    if line.len() >= BUFFER_BYTES - line_at || line.contains('\0') {
        return Err(TooLong { what: "line", bytes: line.len() });
    }
    if kind.len() >= 16 || kind.contains('\0') {
        return Err(TooLong { what: "kind", bytes: kind.len() });
    }
    put(&mut buffer, HEADER_BYTES + 8, &sectors.to_le_bytes());
    put(&mut buffer, HEADER_BYTES + 24, kind.as_bytes());
    put(&mut buffer, line_at, line.as_bytes());
    Ok(buffer)
}

/// The minor number of the device that a call answered with: it is `/dev/dm-MINOR`.
#[must_use]
pub fn minor(answer: &Buffer) -> u64 {
    let mut device = [0; 8];
    device.copy_from_slice(&answer[40..48]);
    let device = u64::from_le_bytes(device);
    // The kernel's packed form: 8 bits of the minor, 12 of the major, the rest of the minor.
    device & 0xff | (device >> 12) & !0xff & 0xffff_ffff
}

fn header(name: &str, uuid: &str, flags: u32) -> Result<Buffer, TooLong> {
    for (what, text, most) in [("name", name, NAME_MAX), ("uuid", uuid, UUID_MAX)] {
        if text.len() > most || text.contains('\0') {
            return Err(TooLong { what, bytes: text.len() });
        }
    }
    let mut buffer = [0; BUFFER_BYTES];
    // Both fit 32 bits: they are constants of some hundred.
    let (whole, target) = (2048_u32, 312_u32);
    put(&mut buffer, 0, &4_u32.to_le_bytes());
    put(&mut buffer, 12, &whole.to_le_bytes());
    put(&mut buffer, 16, &target.to_le_bytes());
    put(&mut buffer, 28, &flags.to_le_bytes());
    put(&mut buffer, 48, name.as_bytes());
    put(&mut buffer, 176, uuid.as_bytes());
    Ok(buffer)
}

fn put(buffer: &mut Buffer, at: usize, what: &[u8]) {
    buffer[at..at + what.len()].copy_from_slice(what);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_lies_where_the_kernel_reads_it() {
        let buffer = load("root", "verity", 1040, "1 254:3 254:4").expect("it fits");
        assert_eq!(buffer[0..12], [4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(buffer[12..24], [0, 8, 0, 0, 0x38, 1, 0, 0, 1, 0, 0, 0]);
        assert_eq!(buffer[28..32], [1, 0, 0, 0]);
        assert_eq!(&buffer[48..53], b"root\0");
        assert_eq!(buffer[312..328], [0, 0, 0, 0, 0, 0, 0, 0, 0x10, 4, 0, 0, 0, 0, 0, 0]);
        assert_eq!(&buffer[336..343], b"verity\0");
        assert_eq!(&buffer[352..366], b"1 254:3 254:4\0");
    }

    #[test]
    fn a_device_is_made_read_only_and_started_as_it_is() {
        let buffer = create("root", "CRYPT-VERITY-1-root").expect("it fits");
        assert_eq!((buffer[28], &buffer[176..196]), (1, &b"CRYPT-VERITY-1-root\0"[..]));
        assert_eq!(resume("root").expect("it fits")[28], 0);
    }

    #[test]
    fn the_whole_is_as_long_as_it_says() {
        assert_eq!(u32::try_from(BUFFER_BYTES), Ok(2048));
        assert_eq!(u32::try_from(HEADER_BYTES), Ok(312));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let long = "x".repeat(2000);
        assert!(create(&long[..128], "").is_err());
        assert!(create("root", &long[..129]).is_err());
        assert!(create("a\0b", "").is_err());
        assert!(load("root", &long[..16], 1, "").is_err());
        assert!(load("root", "verity", 1, &long[..1696]).is_err());
        assert!(load("root", "verity", 1, "a\0b").is_err());
        assert!(load("root", "verity", 1, &long[..1695]).is_ok());
    }

    #[test]
    fn the_minor_number_is_unpacked() {
        for (device, expected) in
            [(0xfd00_u64, 0), (0xfd07, 7), (0xfdff, 255), (0x0010_fd01, 257), (0xfff0_fdff, 0xfffff)]
        {
            let mut answer = [0; BUFFER_BYTES];
            answer[40..48].copy_from_slice(&device.to_le_bytes());
            assert_eq!(minor(&answer), expected, "{device:#x}");
        }
    }
}
