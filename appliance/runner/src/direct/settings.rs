//! What the owner wants set on GPUs, as he writes it: a TOML file with a table for all of them and one for each that
//! differs.
//!
//! ```toml
//! [all]
//! power_limit_mw = 250_000
//!
//! ["GPU-8f3c1f0a-12ab-34cd-56ef-7890abcdef12"]
//! locked_clocks_mhz = { min = 210, max = 1800 }
//! locked_memory_clocks_mhz = { min = 405, max = 9501 }
//! fan_curve = [{ temperature_c = 40, percent = 30 }, { temperature_c = 80, percent = 100 }]
//! ```
//!
//! Invariant: a key that does not exist, and a value that the board does not take, is an error with its line; nothing
//! is passed over, for its owner would believe that it holds.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use gpu::GpuUuid;
use gpu::settings::{Checked, ClockRange, FanPoint, Limits, Settings, SettingsError};
use serde::Deserialize;
use toml::Spanned;

/// The longest file that is read, in bytes: a table of each of 16 GPUs takes a few thousand.
const BYTES_MAX: u64 = 64 << 10;

/// The table that is for every GPU.
const ALL: &str = "all";

/// The file, read.
#[derive(Debug)]
pub(crate) struct SettingsFile {
    path: PathBuf,
    text: String,
    all: Written,
    gpus: BTreeMap<GpuUuid, Written>,
}

/// One table, with the place of each value.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table such as [all]")]
struct Written {
    power_limit_mw: Option<Spanned<u32>>,
    locked_clocks_mhz: Option<Spanned<ClockRange>>,
    locked_memory_clocks_mhz: Option<Spanned<ClockRange>>,
    fan_curve: Option<Spanned<Vec<FanPoint>>>,
}

/// A file that cannot be followed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SettingsFileError {
    #[error("read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} has {bytes} bytes, settings have at most {BYTES_MAX}", path.display())]
    TooLong { path: PathBuf, bytes: u64 },
    #[error("{} line {line}: unknown key `{key}`{}", path.display(), hint(nearest.as_deref()))]
    UnknownKey { path: PathBuf, line: usize, key: String, nearest: Option<String> },
    #[error(
        "{} line {line}: the table `{table}` is neither [{ALL}] nor the UUID of a GPU in quotes; `rig gpu` shows them",
        path.display()
    )]
    UnknownTable { path: PathBuf, line: usize, table: String },
    #[error("{} line {line}: {message}", path.display())]
    Syntax { path: PathBuf, line: usize, message: String },
    #[error("{} line {line}", path.display())]
    NotTaken {
        path: PathBuf,
        line: usize,
        #[source]
        source: SettingsError,
    },
}

// === impl SettingsFile ===

impl SettingsFile {
    /// Reads the file and checks what can be checked without a GPU.
    pub(crate) fn read(path: &Path) -> Result<Self, SettingsFileError> {
        let failed = |source| SettingsFileError::Read { path: path.to_owned(), source };
        let bytes = std::fs::metadata(path).map_err(failed)?.len();
        if bytes > BYTES_MAX {
            return Err(SettingsFileError::TooLong { path: path.to_owned(), bytes });
        }
        Self::parse(path, std::fs::read_to_string(path).map_err(failed)?)
    }

    fn parse(path: &Path, text: String) -> Result<Self, SettingsFileError> {
        let tables: BTreeMap<Spanned<String>, Written> =
            toml::from_str(&text).map_err(|error| explain(path, &text, &error))?;
        let mut file = Self { path: path.to_owned(), text, all: Written::default(), gpus: BTreeMap::new() };
        for (name, written) in tables {
            let line = file.line(name.span().start);
            match (name.into_inner(), written) {
                (name, written) if name == ALL => file.all = written,
                (table, written) => match table.parse() {
                    Ok(gpu) => drop(file.gpus.insert(gpu, written)),
                    Err(_) => return Err(SettingsFileError::UnknownTable { path: file.path, line, table }),
                },
            }
        }
        Ok(file)
    }

    /// The GPUs that have a table of their own.
    pub(super) fn named(&self) -> impl Iterator<Item = &GpuUuid> {
        self.gpus.keys()
    }

    /// What holds for the board of `limits`; `None` if nothing does.
    ///
    /// Errors: the first value that it does not take, with its line.
    pub(super) fn check(&self, limits: &Limits) -> Result<Option<Checked>, SettingsFileError> {
        let own = self.gpus.get(&limits.gpu);
        let merged = own.map_or_else(|| self.all.clone(), |own| own.clone().or(&self.all));
        let checked = merged.settings().check(limits).map_err(|source| SettingsFileError::NotTaken {
            path: self.path.clone(),
            line: self.line(merged.start_of(&source)),
            source,
        })?;
        Ok(Some(checked).filter(|checked| !checked.is_empty()))
    }

    fn line(&self, offset: usize) -> usize {
        line_of(&self.text, offset)
    }
}

// === impl Written ===

impl Written {
    /// These, and where there is none, those of `all`.
    fn or(self, all: &Self) -> Self {
        let Self { power_limit_mw, locked_clocks_mhz, locked_memory_clocks_mhz, fan_curve } = all.clone();
        Self {
            power_limit_mw: self.power_limit_mw.or(power_limit_mw),
            locked_clocks_mhz: self.locked_clocks_mhz.or(locked_clocks_mhz),
            locked_memory_clocks_mhz: self.locked_memory_clocks_mhz.or(locked_memory_clocks_mhz),
            fan_curve: self.fan_curve.or(fan_curve),
        }
    }

    fn settings(&self) -> Settings {
        let range = |range: &Option<Spanned<ClockRange>>| range.as_ref().map(|range| *range.get_ref());
        Settings {
            power_limit_mw: self.power_limit_mw.as_ref().map(|limit| *limit.get_ref()),
            locked_clocks_mhz: range(&self.locked_clocks_mhz),
            locked_memory_clocks_mhz: range(&self.locked_memory_clocks_mhz),
            fan_curve: self.fan_curve.as_ref().map(|curve| curve.get_ref().clone()),
        }
    }

    /// Where the value begins that the error is about.
    fn start_of(&self, error: &SettingsError) -> usize {
        let setting = match error {
            SettingsError::NotSupported { setting, .. }
            | SettingsError::OutOfRange { setting, .. }
            | SettingsError::Backwards { setting, .. } => *setting,
            SettingsError::PointCount { .. } | SettingsError::NotRising { .. } | SettingsError::TooSlow { .. } => {
                "fan_curve"
            }
        };
        let span = match setting {
            "power_limit_mw" => self.power_limit_mw.as_ref().map(Spanned::span),
            "locked_clocks_mhz" => self.locked_clocks_mhz.as_ref().map(Spanned::span),
            "locked_memory_clocks_mhz" => self.locked_memory_clocks_mhz.as_ref().map(Spanned::span),
            _ => self.fan_curve.as_ref().map(Spanned::span),
        };
        span.map_or(0, |span| span.start)
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    text.get(..offset).map_or(1, |before| before.matches('\n').count() + 1)
}

/// Turns the parser's error into one that names line and key.
fn explain(path: &Path, text: &str, error: &toml::de::Error) -> SettingsFileError {
    let (path, line) = (path.to_owned(), line_of(text, error.span().map_or(0, |span| span.start)));
    // Serde's own sentence for it: unknown field `a`, expected one of `b`, `c`.
    let unknown = error.message().strip_prefix("unknown field ");
    let mut quoted = unknown.into_iter().flat_map(|words| words.split('`').skip(1).step_by(2));
    match quoted.next() {
        Some(key) => {
            let nearest = quoted.min_by_key(|valid| strsim::damerau_levenshtein(key, valid)).map(str::to_owned);
            SettingsFileError::UnknownKey { path, line, key: key.to_owned(), nearest }
        }
        None => SettingsFileError::Syntax { path, line, message: error.message().replace('\n', " ") },
    }
}

fn hint(nearest: Option<&str>) -> String {
    nearest.map(|key| format!(", did you mean `{key}`?")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use gpu::inventory::{PowerLimits, TemperatureLimits};

    use super::super::words;
    use super::*;

    const UUID: &str = "GPU-8f3c1f0a-12ab-34cd-56ef-7890abcdef12";

    fn limits() -> Limits {
        Limits {
            gpu: UUID.parse().expect("a UUID"),
            power: PowerLimits { min_mw: Some(100_000), max_mw: Some(450_000), ..PowerLimits::default() },
            clocks_mhz: Some(ClockRange { min: 210, max: 3_105 }),
            memory_clocks_mhz: None,
            fans: 2,
            fan_percent: Some((30, 100)),
            temperatures: TemperatureLimits { slowdown_c: Some(90), ..TemperatureLimits::default() },
        }
    }

    fn parse(text: &str) -> Result<SettingsFile, SettingsFileError> {
        SettingsFile::parse(Path::new("gpu.toml"), text.to_owned())
    }

    fn check(text: &str, expected: &str) {
        let error = parse(text).and_then(|file| file.check(&limits())).expect_err(text);
        assert_eq!(words(&error), expected, "{text}");
    }

    #[test]
    fn a_gpu_s_own_table_goes_before_that_of_all() {
        let text = format!(
            "[all]\npower_limit_mw = 250_000\nlocked_clocks_mhz = {{ min = 210, max = 1800 }}\n\
             [\"{UUID}\"]\npower_limit_mw = 300_000\n[GPU-1]\npower_limit_mw = 1\n"
        );
        let file = parse(&text).expect("it is read");
        let checked = file.check(&limits()).expect("it is taken").expect("something is set");
        assert_eq!(checked.power_limit_mw(), Some(300_000));
        assert_eq!(checked.locked_clocks_mhz(), Some(ClockRange { min: 210, max: 1800 }));
        let other = Limits { gpu: "GPU-2".parse().expect("a UUID"), ..limits() };
        let checked = file.check(&other).expect("it is taken").expect("something is set");
        assert_eq!(checked.power_limit_mw(), Some(250_000));
        assert_eq!(file.named().count(), 2);
    }

    #[test]
    fn an_empty_file_sets_nothing() {
        for text in ["", "# nothing\n", "[all]\n"] {
            assert_eq!(parse(text).and_then(|file| file.check(&limits())).expect("taken"), None, "{text}");
        }
    }

    #[test]
    fn what_cannot_be_followed_is_named_with_its_line() {
        check("[all]\npower_limit = 1\n", "gpu.toml line 2: unknown key `power_limit`, did you mean `power_limit_mw`?");
        check(
            "[all]\nlocked_clocks_mhz = { mini = 1, max = 2 }\n",
            "gpu.toml line 2: unknown key `mini`, did you mean `min`?",
        );
        check(
            "[all]\n[every]\npower_limit_mw = 1\n",
            "gpu.toml line 2: the table `every` is neither [all] nor the UUID of a GPU in quotes; `rig gpu` shows them",
        );
        check("[all]\npower_limit_mw = \"much\"\n", "gpu.toml line 2: invalid type: string \"much\", expected u32");
        check("\npower_limit_mw = 1\n", "gpu.toml line 2: invalid type: integer `1`, expected a table such as [all]");
    }

    #[test]
    fn what_the_board_does_not_take_is_named_with_its_line_and_its_limits() {
        let range = "is out of range for GPU-8f3c1f0a-12ab-34cd-56ef-7890abcdef12: it takes";
        check(
            "[all]\n\npower_limit_mw = 500000\n",
            &format!("gpu.toml line 3: power_limit_mw = 500000 {range} 100000 to 450000"),
        );
        check(
            &format!("[all]\npower_limit_mw = 500000\n[{UUID}]\npower_limit_mw = 1\n"),
            &format!("gpu.toml line 4: power_limit_mw = 1 {range} 100000 to 450000"),
        );
        check(
            "[all]\nlocked_clocks_mhz = { min = 300, max = 200 }\n",
            "gpu.toml line 2: locked_clocks_mhz has min = 300 above max = 200; swap them",
        );
        check(
            "[all]\nlocked_memory_clocks_mhz = { min = 1, max = 2 }\n",
            &format!("gpu.toml line 2: {UUID} does not take locked_memory_clocks_mhz; leave it out"),
        );
        check(
            "[all]\nfan_curve = [\n  { temperature_c = 40, percent = 50 },\n  { temperature_c = 40, percent = 60 },\n]\n",
            "gpu.toml line 2: fan_curve point 2 must be hotter than the one before it, and not slower",
        );
    }

    #[test]
    fn a_file_that_is_not_there_or_too_long_is_named() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("gpu.toml");
        let error = SettingsFile::read(&path).expect_err("there is none");
        assert!(error.to_string().starts_with("read "), "{error}");
        std::fs::write(&path, "#".repeat(65_537)).expect("write");
        let error = SettingsFile::read(&path).expect_err("it is too long");
        assert!(error.to_string().ends_with("has 65537 bytes, settings have at most 65536"), "{error}");
    }
}
