//! A tar written byte by byte: what no library would write, an attacker does.

/// The kinds of entries, as the type flag spells them.
pub mod kind {
    /// A regular file.
    pub const FILE: u8 = b'0';
    /// Another name of a file.
    pub const HARD_LINK: u8 = b'1';
    /// A link.
    pub const SYMLINK: u8 = b'2';
    /// A character device.
    pub const CHAR: u8 = b'3';
    /// A block device.
    pub const BLOCK: u8 = b'4';
    /// A directory.
    pub const DIR: u8 = b'5';
    /// A named pipe.
    pub const FIFO: u8 = b'6';
}

/// A block of a tar, in bytes.
pub const BLOCK: usize = 512;

/// A tar in the making.
#[derive(Clone, Debug, Default)]
pub struct RawTar(Vec<u8>);

/// One header and its content, each field as told.
#[derive(Clone, Debug)]
pub struct Entry<'a> {
    /// At most 100 bytes.
    pub name: &'a [u8],
    /// Type flag; see [`kind`].
    pub kind: u8,
    /// Permission bits, setuid and the like included.
    pub mode: u32,
    /// The size field, as it stands in the header.
    pub size: [u8; 12],
    /// Where a link leads; at most 100 bytes.
    pub link: &'a [u8],
    /// Device numbers.
    pub device: (u32, u32),
    /// What follows the header, whatever the size field says.
    pub content: &'a [u8],
}

// === impl Entry ===

impl<'a> Entry<'a> {
    /// An honest one.
    #[must_use]
    pub fn new(kind: u8, name: &'a [u8], content: &'a [u8]) -> Self {
        Self { name, kind, mode: 0o755, size: octal(content.len() as u64), link: b"", device: (0, 0), content }
    }

    fn header(&self) -> [u8; BLOCK] {
        let mut header = [0; BLOCK];
        header[..self.name.len()].copy_from_slice(self.name);
        header[100..108].copy_from_slice(format!("{:07o}\0", self.mode).as_bytes());
        header[108..116].copy_from_slice(b"0000000\0");
        header[116..124].copy_from_slice(b"0000000\0");
        header[124..136].copy_from_slice(&self.size);
        header[136..148].copy_from_slice(b"07346545000\0"); // 1_000_000_000
        header[156] = self.kind;
        header[157..157 + self.link.len()].copy_from_slice(self.link);
        header[257..265].copy_from_slice(b"ustar  \0");
        header[329..337].copy_from_slice(format!("{:07o}\0", self.device.0).as_bytes());
        header[337..345].copy_from_slice(format!("{:07o}\0", self.device.1).as_bytes());
        header
    }
}

// === impl RawTar ===

impl RawTar {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// What another made, to be continued.
    ///
    /// # Panics
    /// If it does not end as a tar does.
    #[must_use]
    pub fn after(mut tar: Vec<u8>) -> Self {
        let content = tar.len().checked_sub(2 * BLOCK).expect("the end of a tar");
        assert!(tar[content..].iter().all(|byte| *byte == 0), "the end of a tar is two empty blocks");
        tar.truncate(content);
        Self(tar)
    }

    /// Adds an entry.
    #[must_use]
    pub fn entry(mut self, entry: &Entry<'_>) -> Self {
        self.append(entry.header(), entry.content);
        self
    }

    /// Adds a regular file.
    #[must_use]
    pub fn file(self, name: &[u8], content: &[u8]) -> Self {
        self.entry(&Entry::new(kind::FILE, name, content))
    }

    /// Adds a directory.
    #[must_use]
    pub fn dir(self, name: &[u8]) -> Self {
        self.entry(&Entry::new(kind::DIR, name, b""))
    }

    /// Adds a link, symbolic or hard.
    #[must_use]
    pub fn link(self, kind: u8, name: &[u8], target: &[u8]) -> Self {
        self.entry(&Entry { link: target, ..Entry::new(kind, name, b"") })
    }

    /// Adds records for the entry that comes next, in the manner of POSIX. `kind` is `x`, or `g` for all that come.
    #[must_use]
    pub fn pax(self, kind: u8, records: &[(&[u8], &[u8])]) -> Self {
        let records: Vec<u8> = records.iter().flat_map(|(key, value)| record(key, value)).collect();
        self.entry(&Entry::new(kind, b"PaxHeaders/x", &records))
    }

    /// Adds a long name (`L`) or link target (`K`) for the entry that comes next, in the manner of GNU.
    #[must_use]
    pub fn long(self, kind: u8, text: &[u8]) -> Self {
        let text = [text, b"\0"].concat();
        self.entry(&Entry::new(kind, b"././@LongLink", &text))
    }

    /// Adds a sparse file of GNU's old kind, with up to four pieces of data: where, and how many bytes.
    #[must_use]
    pub fn sparse(mut self, name: &[u8], real_bytes: u64, pieces: &[(u64, u64)], content: &[u8]) -> Self {
        let mut header = Entry::new(b'S', name, content).header();
        for (slot, (at, bytes)) in pieces.iter().enumerate().take(4) {
            let field = 386 + slot * 24;
            header[field..field + 12].copy_from_slice(&binary(*at));
            header[field + 12..field + 24].copy_from_slice(&binary(*bytes));
        }
        header[483..495].copy_from_slice(&binary(real_bytes));
        self.append(header, content);
        self
    }

    /// Adds what is no entry at all.
    #[must_use]
    pub fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }

    /// The tar, ended as it should be.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        self.0.extend([0; 2 * BLOCK]);
        self.0
    }

    /// The tar, broken off here.
    #[must_use]
    pub fn broken_off(self) -> Vec<u8> {
        self.0
    }

    fn append(&mut self, mut header: [u8; BLOCK], content: &[u8]) {
        header[148..156].copy_from_slice(b"        ");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.0.extend(header);
        self.0.extend(content);
        self.0.resize(self.0.len().next_multiple_of(BLOCK), 0);
    }
}

/// A number as the size field usually has it.
#[must_use]
pub fn octal(number: u64) -> [u8; 12] {
    let mut field = [0; 12];
    field[..11].copy_from_slice(format!("{number:011o}").as_bytes());
    field
}

/// A number as GNU writes those that octal digits cannot hold.
#[must_use]
pub fn binary(number: u64) -> [u8; 12] {
    let mut field = [0; 12];
    field[0] = 0x80;
    field[4..].copy_from_slice(&number.to_be_bytes());
    field
}

/// `LENGTH KEY=VALUE\n`, the length counting itself.
fn record(key: &[u8], value: &[u8]) -> Vec<u8> {
    let rest = [b" ", key, b"=", value, b"\n"].concat();
    let mut length = rest.len() + 1;
    while length.to_string().len() + rest.len() != length {
        length += 1;
    }
    [length.to_string().as_bytes(), &rest].concat()
}
