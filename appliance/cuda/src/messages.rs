//! What the runner and a worker say to each other, and what `rig-cuda` prints.
//!
//! Both ends ship in one image, so messages carry no version; an unknown field is refused. Each message is one
//! JSON datagram on the `SOCK_SEQPACKET` socket that is the worker's descriptor [`SOCKET_FD`].
//!
//! A GPU worker: it sends one [`Greeting`]; it waits, for as long as it takes, for one [`Job`]; it sends one
//! [`Done`] and exits. A closed socket instead of a job ends it too. A compile worker: it receives one [`Compile`],
//! sends one [`Compiled`] and exits. A measuring worker sends one [`Measuring`] and exits. Whatever else is sent is never read.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use bundle::{Arch, Digest, Parameters, Version};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::class::Class;

/// The descriptor at which a jailed worker finds its socket.
pub const SOCKET_FD: i32 = 3;

/// The largest message in either direction, in bytes; the runner's own bound.
pub const MESSAGE_BYTES_MAX: usize = 64 * 1024;

/// The most text of a [`Failure::detail`], in bytes.
pub const DETAIL_BYTES_MAX: usize = 1024;

/// The most text of the linker's log that a refusal carries, in bytes, before JSON quotes it.
pub const LOG_BYTES_MAX: usize = 16 * 1024;

/// The most bytes of a cubin that a compile worker writes. A bundle's archive is at most 64 MiB, and machine code
/// is not larger than the text that it comes from by more than a little.
pub const CUBIN_BYTES_MAX: u64 = 128 * 1024 * 1024;

/// The most marks of which [`Ran`] tells the time; so many numbers fit a message. A plan with more is refused.
pub const MARKS_MAX: usize = 2048;

/// The first that a GPU worker says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "greeting", rename_all = "snake_case")]
pub enum Greeting {
    /// It has a context and waits for a job.
    Warm(Warm),
    /// It could not get so far, and exits. No job was harmed.
    Failed(Failure),
}

/// A GPU worker that waits for its job: libraries mapped, context made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Warm {
    /// The driver's name of the device.
    pub device: String,
    /// Major and minor.
    pub compute_capability: (u32, u32),
    /// The newest CUDA that the driver supports (`cuDriverGetVersion`).
    #[serde(with = "text")]
    pub driver: Version,
    /// Memory of the device, in bytes.
    pub vram_total_bytes: u64,
    /// Memory of the device that nobody holds, after the context was made, in bytes.
    pub vram_free_bytes: u64,
    /// What it took.
    pub timings: WarmTimings,
}

/// What a worker's start took, each in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WarmTimings {
    /// Mapping the driver's library and finding its calls.
    pub load_us: u64,
    /// `cuInit`.
    pub init_us: u64,
    /// The primary context, and what the driver makes at the first use of one.
    pub context_us: u64,
}

/// The one job of a GPU worker.
///
/// Descriptors beside it: the bundle's archive; the inputs of the plan, as [`bundle::Plan::input_bytes`] says; the
/// outputs, a file of exactly [`bundle::Plan::output_bytes`]; then the cubin of each PTX module, in module order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Job {
    /// What the archive must hash to.
    pub bundle: Digest,
    /// Which function of it.
    pub function: String,
    /// Its parameters.
    pub parameters: Parameters,
    /// First read all free memory of the device and count what is not zero.
    pub scan: bool,
}

/// The last that a GPU worker says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "done", rename_all = "snake_case")]
pub enum Done {
    /// The outputs are written.
    Ran(Ran),
    /// They are not, or not all.
    Failed(Failure),
}

/// A job that ran to its end.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ran {
    /// When each mark of the plan was reached, in milliseconds since the first operation, in the order of
    /// [`bundle::Plan::marks`].
    pub marks_ms: Vec<f64>,
    /// What each step took.
    pub timings: JobTimings,
    /// Bytes that the scan read; 0 if none was asked for.
    pub scanned_bytes: u64,
    /// Those of them that were not zero.
    pub dirty_bytes: u64,
}

/// What the steps of a job took, each in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobTimings {
    /// Reading, parsing and planning the bundle.
    pub parse_us: u64,
    /// The scan of free memory; 0 if none was asked for.
    pub scan_us: u64,
    /// Modules, and finding their kernels.
    pub load_us: u64,
    /// Buffers.
    pub allocate_us: u64,
    /// Inputs to the device, and zeros where there are none.
    pub upload_us: u64,
    /// From the first operation's submission until the first launch was submitted.
    pub first_launch_us: u64,
    /// From the first operation's submission until the device had done the last.
    pub run_us: u64,
    /// Outputs from the device.
    pub download_us: u64,
}

/// Why a worker gave up, and at what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Failure {
    /// What kind of failure.
    pub class: Class,
    /// The driver's `CUresult`, or 0 if it was not the driver that refused.
    pub code: i32,
    /// The driver's name for the code, such as `CUDA_ERROR_ILLEGAL_ADDRESS`; empty if it was not the driver.
    pub name: String,
    /// The step, such as `cuInit` or `run operation 12 (launch gemm_f32)`.
    pub during: String,
    /// More in plain words, at most [`DETAIL_BYTES_MAX`] bytes; may be empty.
    pub detail: String,
}

/// The one request to a compile worker. Descriptors beside it: the PTX, to read; the cubin, empty, to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Compile {
    /// The compute capability of the device that the cubin is for.
    #[serde(with = "text")]
    pub arch: Arch,
}

/// What became of a [`Compile`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "compiled", rename_all = "snake_case", deny_unknown_fields)]
pub enum Compiled {
    /// The cubin is written.
    Compiled {
        /// Its length.
        bytes: u64,
        /// What the linker took, without being loaded, in microseconds.
        us: u64,
    },
    /// The linker does not take this PTX: the bundle's fault, unless the PTX is of a later version than the linker
    /// ([`Probe::linker_version`]), which whoever sends it can tell beforehand.
    Refused {
        /// The linker's log, at most [`LOG_BYTES_MAX`] bytes; its end is missing if it was longer.
        log: String,
    },
    /// There was nothing to compile with, or a descriptor was not what it should be: not the bundle's fault.
    Failed {
        /// Why, and what to do; at most [`DETAIL_BYTES_MAX`] bytes.
        why: String,
    },
}

/// What `rig-cuda probe` prints: what this machine has for CUDA. Nothing found is an answer, too.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Probe {
    /// Where the driver's library was mapped from.
    pub libcuda: Option<PathBuf>,
    /// Why there is no device to work with, if there is none.
    pub why: Option<String>,
    /// The newest CUDA that the driver supports.
    #[serde(with = "optional_text")]
    pub driver_version: Option<Version>,
    /// In the driver's order.
    pub devices: Vec<ProbedDevice>,
    /// Where the linker's library was mapped from.
    pub linker: Option<PathBuf>,
    /// The linker's version.
    #[serde(with = "optional_text")]
    pub linker_version: Option<Version>,
    /// Shared objects that are mapped after both were tried, sorted: what a jail must hold.
    pub mapped: Vec<PathBuf>,
}

/// One device that the driver knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProbedDevice {
    /// The driver's name of it.
    pub name: String,
    /// `GPU-` and the UUID, as `CUDA_VISIBLE_DEVICES` takes it.
    pub uuid: String,
    /// Major and minor.
    pub compute_capability: (u32, u32),
    /// Memory, in bytes.
    pub vram_bytes: u64,
}

/// What `rig-cuda measure` finds: how fast bytes move, each in 10⁹ bytes per second, the median of several copies.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measured {
    /// Bytes read and bytes written, both counted, when the device copies its own memory.
    pub device_copy_gb_s: f64,
    /// From pinned memory of the host.
    pub host_to_device_gb_s: f64,
    /// Into pinned memory of the host.
    pub device_to_host_gb_s: f64,
    /// Bytes of one copy.
    pub copied_bytes: u64,
}

/// The one word of a worker that measures.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "measuring", rename_all = "snake_case")]
pub enum Measuring {
    /// It has.
    Measured(Measured),
    /// It could not.
    Failed {
        /// Why; at most [`DETAIL_BYTES_MAX`] bytes.
        why: String,
    },
}

/// `text`, cut to at most `bytes_max` bytes between two characters, for a message that has a bound.
#[must_use]
pub fn clipped(text: &str, bytes_max: usize) -> &str {
    &text[..text.floor_char_boundary(bytes_max)]
}

/// A value in a message as its text.
mod text {
    use super::*;

    pub(super) fn serialize<T: fmt::Display, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub(super) fn deserialize<'de, T, D>(deserializer: D) -> Result<T, D::Error>
    where
        T: FromStr<Err: fmt::Display>,
        D: Deserializer<'de>,
    {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// A value in a message as its text, or nothing.
mod optional_text {
    use super::*;

    pub(super) fn serialize<T: fmt::Display, S: Serializer>(
        value: &Option<T>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        value.as_ref().map(ToString::to_string).serialize(serializer)
    }

    pub(super) fn deserialize<'de, T, D>(deserializer: D) -> Result<Option<T>, D::Error>
    where
        T: FromStr<Err: fmt::Display>,
        D: Deserializer<'de>,
    {
        let text = Option::<String>::deserialize(deserializer)?;
        text.map(|text| text.parse().map_err(D::Error::custom)).transpose()
    }
}

#[cfg(test)]
mod tests {
    use serde::de::DeserializeOwned;

    use super::*;

    /// The text is what goes over the socket; a change to it is a change to both ends.
    fn check<T: Serialize + DeserializeOwned + PartialEq + fmt::Debug>(message: &T, expected: &str) {
        let text = serde_json::to_string(message).expect("a message can be written");
        assert_eq!(text, expected);
        assert_eq!(&serde_json::from_str::<T>(&text).expect("a message can be read"), message);
        assert!(text.len() <= MESSAGE_BYTES_MAX);
    }

    fn failure() -> Failure {
        Failure {
            class: Class::IllegalAddress,
            code: 700,
            name: "CUDA_ERROR_ILLEGAL_ADDRESS".to_owned(),
            during: "run to the end".to_owned(),
            detail: String::new(),
        }
    }

    #[test]
    fn a_worker_s_messages_are_spelt_like_this() {
        let timings = WarmTimings { load_us: 1, init_us: 2, context_us: 3 };
        let warm = Warm {
            device: "A GPU".to_owned(),
            compute_capability: (8, 9),
            driver: Version::new(12, 8),
            vram_total_bytes: 5,
            vram_free_bytes: 4,
            timings,
        };
        check(
            &Greeting::Warm(warm),
            r#"{"greeting":"warm","device":"A GPU","compute_capability":[8,9],"driver":"12.8","vram_total_bytes":5,"vram_free_bytes":4,"timings":{"load_us":1,"init_us":2,"context_us":3}}"#,
        );
        check(
            &Done::Failed(failure()),
            r#"{"done":"failed","class":"illegal_address","code":700,"name":"CUDA_ERROR_ILLEGAL_ADDRESS","during":"run to the end","detail":""}"#,
        );
        check(
            &Greeting::Failed(failure()),
            &serde_json::to_string(&Done::Failed(failure())).expect("text").replace("done", "greeting"),
        );
        check(
            &Done::Ran(Ran { marks_ms: vec![0.5], ..Ran::default() }),
            r#"{"done":"ran","marks_ms":[0.5],"timings":{"parse_us":0,"scan_us":0,"load_us":0,"allocate_us":0,"upload_us":0,"first_launch_us":0,"run_us":0,"download_us":0},"scanned_bytes":0,"dirty_bytes":0}"#,
        );
        check(&Compile { arch: Arch::new(9, 0) }, r#"{"arch":"sm_90"}"#);
        check(&Compiled::Compiled { bytes: 7, us: 8 }, r#"{"compiled":"compiled","bytes":7,"us":8}"#);
        check(&Compiled::Refused { log: "line 1".to_owned() }, r#"{"compiled":"refused","log":"line 1"}"#);
        check(
            &Measuring::Measured(Measured {
                device_copy_gb_s: 0.5,
                host_to_device_gb_s: 1.5,
                device_to_host_gb_s: 2.5,
                copied_bytes: 4,
            }),
            r#"{"measuring":"measured","device_copy_gb_s":0.5,"host_to_device_gb_s":1.5,"device_to_host_gb_s":2.5,"copied_bytes":4}"#,
        );
        check(&Measuring::Failed { why: "w".to_owned() }, r#"{"measuring":"failed","why":"w"}"#);
        check(
            &Probe { driver_version: Some(Version::new(13, 0)), ..Probe::default() },
            r#"{"libcuda":null,"why":null,"driver_version":"13.0","devices":[],"linker":null,"linker_version":null,"mapped":[]}"#,
        );
    }

    #[test]
    fn a_job_with_anything_else_in_it_is_refused() {
        let job = |more: &str| {
            let digest = "0".repeat(64);
            let text = format!(r#"{{"bundle":"{digest}","function":"f","parameters":{{}},"scan":false{more}}}"#);
            serde_json::from_str::<Job>(&text)
        };
        job("").expect("a job");
        let error = job(r#","stay":true"#).expect_err("an unknown field");
        assert!(error.to_string().contains("stay"), "{error}");
    }

    #[test]
    fn the_longest_of_each_message_fits_the_socket() {
        let fits = |text: String| assert!(text.len() <= MESSAGE_BYTES_MAX, "{} bytes", text.len());
        // A control character takes six bytes in JSON, a quote or a line end two, a float with all its digits 24.
        let text = "\u{1}".repeat(DETAIL_BYTES_MAX);
        let failure = Failure { during: text.clone(), detail: text, ..failure() };
        fits(serde_json::to_string(&Done::Failed(failure)).expect("text"));
        let marks_ms = vec![-1.234_567_890_123_456_7e-300; MARKS_MAX];
        fits(serde_json::to_string(&Done::Ran(Ran { marks_ms, ..Ran::default() })).expect("text"));
        fits(serde_json::to_string(&Compiled::Refused { log: "\n".repeat(LOG_BYTES_MAX) }).expect("text"));
    }

    #[test]
    fn text_is_cut_between_two_characters() {
        let check = |text: &str, bytes_max, expected: &str| assert_eq!(clipped(text, bytes_max), expected);
        check("abc", 3, "abc");
        check("abc", 2, "ab");
        check("aé", 2, "a");
        check("", 0, "");
    }
}
