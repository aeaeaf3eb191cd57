use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use tempfile::TempDir;

use super::*;
use crate::flash::release::{Files, Trust, key};
use crate::flash::sample::{BYTES, MIB, RIG, ROOT_A, Sample, TEMPLATE, noise};
use crate::flash::stick::{Stick, StickError};
use crate::flash::target::is_zero;

/// A stick: room for the image and a state.
const STICK_BYTES: usize = 64 * MIB;

const CHUNK: usize = 4 * MIB;

struct Bench {
    folder: TempDir,
    sample: Sample,
}

#[derive(Debug, Error)]
enum Trouble {
    #[error(transparent)]
    Write(#[from] WriteError),
    #[error(transparent)]
    Stick(#[from] StickError),
}

// === impl Bench ===

impl Bench {
    fn new() -> Bench {
        let folder = tempfile::tempdir().expect("a folder");
        let sample = Sample::new(folder.path(), 512);
        Bench { folder, sample }
    }

    /// A stick that was full of something else.
    fn used_stick(&self) -> PathBuf {
        let path = self.folder.path().join("stick");
        static NOISE: OnceLock<Vec<u8>> = OnceLock::new();
        fs::write(&path, NOISE.get_or_init(|| noise(11, STICK_BYTES))).expect("it can be written");
        path
    }

    fn release(&self, image: &Path) -> Result<Release, ReleaseError> {
        let Sample { manifest, signature, .. } = &self.sample;
        let files = Files::beside(image, Some(manifest.clone()), Some(signature.clone()));
        Release::open(&files, &Trust::Key(key(&self.sample.key).expect("the sample's key")))
    }
}

/// Writes, and stops after `steps` chunks, counted over both phases.
fn write_for(release: &Release, path: &Path, can_clear: bool, steps: Option<usize>) -> Result<Written, Trouble> {
    let mut target = Target::file(path, STICK_BYTES as u64)?;
    target.can_clear(can_clear);
    let stop = AtomicBool::new(false);
    let mut count = 0;
    let mut progress = |_, _: &Pace| {
        count += 1;
        stop.store(steps.is_some_and(|steps| count >= steps), Ordering::Relaxed);
    };
    let mut watch = Watch { progress: &mut progress, stop: &stop };
    write(release, &mut target, &mut watch, |target| {
        let mut stick = Stick::within(target, release.table())?;
        let text = stick.settings()?;
        Ok(stick.write_settings(&format!("{text}# touched\r\n"))?)
    })
}

impl From<TargetError> for Trouble {
    fn from(error: TargetError) -> Trouble {
        Trouble::Write(error.into())
    }
}

/// All of the image is there, nothing of what was there before, and the settings are in place.
#[track_caller]
fn assert_whole(path: &Path, sample: &Sample) {
    let stick = fs::read(path).expect("it can be read");
    assert!(stick[..RIG.start] == sample.bytes[..RIG.start], "before RIG");
    assert!(stick[RIG.end..BYTES] == sample.bytes[RIG.end..], "behind RIG");
    assert!(is_zero(&stick[BYTES..BYTES + MIB]), "behind the image");
    assert!(is_zero(&stick[STICK_BYTES - MIB..]), "the end of the stick");
    let mut target = Target::reading(path).expect("it opens");
    let text = Stick::find(&mut target).expect("a stick").settings().expect("settings");
    assert_eq!(text, format!("{TEMPLATE}# touched\r\n"));
}

#[test]
fn a_used_stick_holds_the_image_and_nothing_else() {
    let bench = Bench::new();
    for image in [&bench.sample.image, &bench.sample.packed] {
        for can_clear in [true, false] {
            let stick = bench.used_stick();
            let release = bench.release(image).expect("a good release");
            let written = write_for(&release, &stick, can_clear, None).expect("it is written");
            assert_whole(&stick, &bench.sample);
            assert_eq!(written.written_bytes + written.skipped_bytes, BYTES as u64);
            assert_eq!(written.compared_bytes, BYTES as u64);
            assert!(written.skipped_bytes >= 2 * CHUNK as u64, "{written:?}");
            // Again over itself, which needs no zeros to be written.
            write_for(&release, &stick, can_clear, None).expect("it is written again");
            assert_whole(&stick, &bench.sample);
        }
    }
}

#[test]
fn a_stick_that_was_cut_after_any_chunk_looks_like_nothing_and_can_be_written_again() {
    let bench = Bench::new();
    let release = bench.release(&bench.sample.packed).expect("a good release");
    let stick = bench.used_stick();
    // What was there before was whole, which is the worst that can lie below.
    write_for(&release, &stick, true, None).expect("it is written");
    let chunks = BYTES / CHUNK;
    let mut cuts = 0;
    for steps in 1..2 * chunks {
        match write_for(&release, &stick, true, Some(steps)) {
            Err(Trouble::Write(WriteError::Stopped)) => cuts += 1,
            Ok(_) => break,
            other => panic!("after {steps}: {other:?}"),
        }
        let bytes = fs::read(&stick).expect("it can be read");
        assert!(is_zero(&bytes[..CHUNK]), "after {steps} it has a beginning");
        assert!(is_zero(&bytes[BYTES - CHUNK..BYTES]), "after {steps} it has a spare table");
        let mut target = Target::reading(&stick).expect("it opens");
        assert!(matches!(Stick::find(&mut target), Err(StickError::Table(_))), "after {steps} it is a stick");
    }
    assert!(cuts >= chunks + 5, "{cuts} cuts");
    write_for(&release, &stick, true, None).expect("it is written");
    assert_whole(&stick, &bench.sample);
}

#[test]
fn a_flipped_bit_in_any_chunk_is_refused_before_it_is_written() {
    let bench = Bench::new();
    let chunks = BYTES / CHUNK;
    for chunk in 0..chunks {
        let place = chunk * CHUNK + 4096 * (chunk + 1) + chunk;
        let mut bytes = bench.sample.bytes.clone();
        bytes[place] ^= 1 << (chunk % 8);
        let image = bench.folder.path().join("flipped.raw");
        fs::write(&image, &bytes).expect("it can be written");
        let stick = bench.used_stick();
        let before = fs::read(&stick).expect("it can be read");
        let error = match bench.release(&image) {
            Err(error) => {
                assert_eq!(chunk, 0, "{error}");
                assert_eq!(before, fs::read(&stick).expect("it can be read"));
                error
            }
            Ok(release) => match write_for(&release, &stick, false, None) {
                Err(Trouble::Write(WriteError::Release(error))) => error,
                other => panic!("chunk {chunk}: {other:?}"),
            },
        };
        let at = (chunk * CHUNK) as u64;
        assert!(matches!(error, ReleaseError::Differs { at: found, .. } if found == at), "chunk {chunk}: {error}");
        if chunk > 0 {
            let after = fs::read(&stick).expect("it can be read");
            let here = chunk * CHUNK..(chunk + 1) * CHUNK;
            let is_edge = chunk + 1 == chunks;
            assert!(is_edge || after[here.clone()] == before[here], "chunk {chunk} was written");
            assert!(is_zero(&after[..CHUNK]), "chunk {chunk}: it has a beginning");
        }
    }
}

#[test]
fn an_image_of_another_length_is_refused() {
    let bench = Bench::new();
    let check = |name: &str, bytes: &[u8], expected: &str| {
        let image = bench.folder.path().join(name);
        fs::write(&image, bytes).expect("it can be written");
        let stick = bench.used_stick();
        let trouble = match bench.release(&image) {
            Err(error) => Trouble::Write(error.into()),
            Ok(release) => write_for(&release, &stick, true, None).expect_err("it is refused"),
        };
        assert!(trouble.to_string().contains(expected), "{name}: {trouble}");
    };
    let bytes = &bench.sample.bytes;
    let packed = fs::read(&bench.sample.packed).expect("it can be read");
    check("empty.raw", &[], "not downloaded to its end");
    check("short.raw", &bytes[..BYTES - 1], "not downloaded to its end");
    check("half.raw", &bytes[..BYTES / 2], "not downloaded to its end");
    check("long.raw", &[bytes.as_slice(), &[0]].concat(), "goes on after byte");
    check("short.raw.zst", &packed[..packed.len() / 2], "not downloaded to its end");
    check("raw.raw.zst", bytes, "read ");
}

#[test]
fn whose_release_it_is_comes_before_everything() {
    let bench = Bench::new();
    let Sample { image, manifest, signature, key: own, .. } = &bench.sample;
    let other = "036b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296";
    let open = |image: &Path, manifest: &Path, signature: &Path, trust: &Trust| {
        let files = Files::beside(image, Some(manifest.to_owned()), Some(signature.to_owned()));
        Release::open(&files, trust).map(drop).map_err(|error| error.to_string())
    };
    let trusted = Trust::Key(key(own).expect("a key"));
    assert_eq!(open(image, manifest, signature, &trusted), Ok(()));
    let refused = |result: Result<(), String>| assert!(result.expect_err("refused").contains("no manifest"));
    refused(open(image, manifest, signature, &Trust::Key(key(other).expect("a key"))));
    // Every byte of the signature and of the manifest counts, and an image that is not there is not even looked for.
    let nowhere = bench.folder.path().join("nowhere.raw");
    let changed = bench.folder.path().join("changed");
    for (file, as_manifest) in [(manifest, true), (signature, false)] {
        let bytes = fs::read(file).expect("it can be read");
        for at in (0..bytes.len()).step_by(7) {
            let mut other = bytes.clone();
            other[at] ^= 4;
            fs::write(&changed, other).expect("it can be written");
            let (manifest, signature) = if as_manifest { (&changed, signature) } else { (manifest, &changed) };
            refused(open(&nowhere, manifest, signature, &trusted));
        }
    }
    // Nobody's word: the manifest still has to be one, and may be missing.
    assert_eq!(open(image, manifest, &nowhere, &Trust::Nobody), Ok(()));
    assert_eq!(open(image, &nowhere, &nowhere, &Trust::Nobody), Ok(()));
    assert!(open(image, image, &nowhere, &Trust::Nobody).is_err());
}

#[test]
fn what_is_read_back_must_be_what_was_written() {
    let bench = Bench::new();
    let release = bench.release(&bench.sample.image).expect("a good release");
    let stick = bench.used_stick();
    let mut target = Target::file(&stick, STICK_BYTES as u64).expect("it opens");
    let stop = AtomicBool::new(false);
    // A stick that loses what it was given: somebody else writes to it when the reading begins.
    let place = (ROOT_A.start + 5) as u64;
    let (file, mut is_spoilt) = (fs::File::options().write(true).open(&stick).expect("it opens"), false);
    let mut progress = |phase, _: &Pace| {
        if phase == Phase::ReadingBack && !std::mem::replace(&mut is_spoilt, true) {
            std::os::unix::fs::FileExt::write_all_at(&file, &[0, 1, 2, 3], place).expect("it can be written");
        }
    };
    let mut watch = Watch { progress: &mut progress, stop: &stop };
    let result = write::<Trouble>(&release, &mut target, &mut watch, |_| Ok(()));
    let Err(Trouble::Write(WriteError::Differs { at })) = result else { panic!("{result:?}") };
    assert_eq!(at, ROOT_A.start as u64);
}
