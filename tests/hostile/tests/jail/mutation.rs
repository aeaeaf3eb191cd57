//! The unpacker without its jail: whatever is in a layer, resolution alone keeps it in its directory.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use hostile::oci::Layer;
use runner::layer::{Bounds, Compression, apply};
use tar::EntryType;

const ROUNDS: u64 = 4000;

const BOUNDS: Bounds = Bounds { bytes: 1 << 20, entries: 500 };

/// Numbers that look random and are the same every time (xorshift).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(below).expect("a length")).expect("below a length")
    }
}

/// A layer of names that lead to each other, out of the tree, and nowhere.
fn layer(numbers: &mut Numbers, outside: &str) -> Vec<u8> {
    let up = format!("../{}", "outside");
    let names = ["a", "a/b", "a/b/c", "l", "l/x", "l/../x", "h", "m", "m/victim", ".wh.a", "a/.wh.b", ".wh.l"];
    let more = ["l/.wh..wh..opq", ".wh..wh..opq", "a/.wh..wh..opq", "/abs", "l/victim", ".", "m/.wh.victim", "l/dir"];
    let names: Vec<&str> = names.into_iter().chain(more).collect();
    let targets = [outside, up.as_str(), "a", "l", "/", "..", "m/victim", "victim", "./a/../../outside", "h"];
    let mut layer = Layer::new();
    for _ in 0..1 + numbers.next(12) {
        let name = names[numbers.next(names.len())];
        let target = targets[numbers.next(targets.len())];
        layer = match numbers.next(6) {
            0 => layer.dir(name),
            1 | 2 => layer.link(EntryType::Symlink, name, target),
            3 => layer.link(EntryType::Link, name, target),
            _ => layer.file(name, 0o6777, b"written"),
        };
    }
    layer.finish()
}

fn tree(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).expect("list") {
        let path = entry.expect("entry").path();
        if path.is_dir() {
            found.extend(tree(&path));
            found.insert(path, Vec::new());
        } else {
            let content = fs::read(&path).expect("read");
            found.insert(path, content);
        }
    }
    found
}

#[test]
fn whatever_a_layer_says_it_lands_in_its_directory_or_nowhere() {
    let dir = tempfile::tempdir().expect("a directory");
    let (inside, outside) = (dir.path().join("inside"), dir.path().join("outside"));
    fs::create_dir_all(outside.join("dir")).expect("mkdir");
    for name in ["victim", "x", "dir/victim"] {
        fs::write(outside.join(name), b"untouched").expect("write");
    }
    let before = tree(&outside);
    let mut numbers = Numbers(0x9E37_79B9_7F4A_7C15);
    let (mut applied, mut refused) = (0, 0);
    for round in 0..ROUNDS {
        let mut tar = layer(&mut numbers, outside.to_str().expect("text"));
        if round % 2 == 1 {
            // Damage as well: most of it ends at a checksum, the rest in lengths, types and names.
            for _ in 0..1 + numbers.next(4) {
                let at = numbers.next(tar.len());
                tar[at] = u8::try_from(numbers.next(256)).expect("a byte");
            }
        }
        fs::create_dir(&inside).expect("mkdir");
        let root = OwnedFd::from(fs::File::open(&inside).expect("open"));
        match apply(Compression::None, &tar[..], BOUNDS, root) {
            Ok(_) => applied += 1,
            Err(_) => refused += 1,
        }
        fs::remove_dir_all(&inside).expect("remove");
        assert_eq!(tree(&outside), before, "round {round}");
    }
    assert_eq!(fs::read_dir(dir.path()).expect("list").count(), 1);
    // Otherwise it would say nothing.
    assert!(applied > ROUNDS / 20 && refused > ROUNDS / 20, "{applied} applied, {refused} refused");
    println!("{applied} applied, {refused} refused");
}
