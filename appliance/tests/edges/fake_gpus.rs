//! GPUs that are not there, behind the fake runner: a launch is run on plain memory by the bundle's own reference.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;

use bundle::{Argument, Bundle, Launch as Kernel, Version, View};
use cuda::messages::{Done, Ran, WarmTimings};
use gpu::Gpu;
use gpu::health::State;
use gpu::inventory::{ComputeCapability, PcieLink, PowerLimits, TemperatureLimits};
use runner::memory;
use runner::protocol::{End, GpuReport, Gpus, JOB_BYTES_MAX, Launch, Launched, Refusal, Reply, Request};

/// The GPUs, and what was asked of them.
#[derive(Default)]
pub(crate) struct FakeGpus {
    pub(crate) report: Option<Gpus>,
    /// How the next launches end; after these they run.
    pub(crate) ends: VecDeque<Result<End, Refusal>>,
    pub(crate) launches: Vec<Launch>,
    /// How many descriptors came with the last launch.
    pub(crate) descriptors: usize,
    /// For which architectures PTX was compiled.
    pub(crate) compiled: Vec<String>,
    /// How often GPUs were tried again.
    pub(crate) retries: u32,
    /// Why PTX is refused.
    pub(crate) bad_ptx: Option<String>,
}

type Answered = Result<(Reply, Option<OwnedFd>), Refusal>;

/// Offered GPUs of these compute capabilities, by a driver for CUDA 12.8, with a compiler.
pub(crate) fn gpus(capabilities: &[(u32, u32)]) -> Gpus {
    let report = |(index, (major, minor)): (u32, &(u32, u32))| GpuReport {
        gpu: Gpu {
            index,
            minor: Some(index),
            uuid: format!("GPU-{index}").parse().expect("a UUID"),
            model: "A GPU".to_owned(),
            pci_bus_id: None,
            serial: None,
            vbios_version: None,
            vram_bytes: Some(8 << 30),
            compute_capability: Some(ComputeCapability { major: *major, minor: *minor }),
            pcie: PcieLink::default(),
            power: PowerLimits::default(),
            temperature_limits: TemperatureLimits::default(),
            ecc: None,
            mig: None,
            is_persistent: None,
            fans: None,
        },
        state: State::Offered,
        warm: None,
        sample: None,
        bench: None,
    };
    Gpus {
        driver: Some("570.1".to_owned()),
        cuda: Some(Version::new(12, 8)),
        compiler: Some(Version::new(12, 8)),
        why: None,
        gpus: (0..).zip(capabilities).map(report).collect(),
    }
}

/// A machine that has none.
fn none() -> Gpus {
    Gpus { driver: None, cuda: None, compiler: None, why: Some("no driver".to_owned()), gpus: Vec::new() }
}

// === impl FakeGpus ===

impl FakeGpus {
    /// Answers what is about GPUs; gives anything else back.
    pub(crate) fn take(&mut self, request: Request, fds: &mut Vec<OwnedFd>) -> Result<Answered, Request> {
        let reply = match request {
            Request::Gpus {} => Reply::Gpus(self.report()),
            Request::RetryGpus {} => {
                self.retries += 1;
                Reply::Gpus(self.report())
            }
            Request::Measure { gpu } => {
                let why = format!("{} has a job", gpu.map_or("each".to_owned(), |gpu| gpu.to_string()));
                return Ok(Err(Refusal::NoGpu { why }));
            }
            Request::Compile { arch } => return Ok(self.compile(arch, fds)),
            Request::Launch(launch) => return Ok(self.launch(*launch, fds)),
            other => return Err(other),
        };
        Ok(Ok((reply, None)))
    }

    fn report(&self) -> Gpus {
        self.report.clone().unwrap_or_else(none)
    }

    fn compile(&mut self, arch: bundle::Arch, fds: &mut Vec<OwnedFd>) -> Answered {
        if let Some(log) = &self.bad_ptx {
            return Err(Refusal::BadPtx { log: log.clone() });
        }
        let ptx = memory::read("ptx", fds.remove(0), JOB_BYTES_MAX).expect("sealed");
        self.compiled.push(arch.to_string());
        let code = memory::sealed("code", &[arch.to_string().as_bytes(), &ptx].concat()).expect("memory");
        Ok((Reply::Compiled { us: 5 }, Some(code)))
    }

    fn launch(&mut self, launch: Launch, fds: &mut Vec<OwnedFd>) -> Answered {
        self.descriptors = fds.len();
        self.launches.push(launch.clone());
        let (end, outputs) = match self.ends.pop_front() {
            Some(end) => (end?, None),
            None => {
                let outputs = ran(&launch, fds);
                (End::Answered { done: Done::Ran(Ran::default()) }, Some(outputs))
            }
        };
        let gpu = launch.gpu.unwrap_or_else(|| self.report().gpus[0].gpu.uuid.clone());
        let (waited_us, took_us, was_warm, warm) = (1, 2, true, WarmTimings::default());
        Ok((Reply::Launched(Box::new(Launched { gpu, end, waited_us, took_us, was_warm, warm })), outputs))
    }
}

/// What a GPU would leave: each kernel of the tests doubles its first view into its second.
fn ran(launch: &Launch, fds: &mut Vec<OwnedFd>) -> OwnedFd {
    let archive = memory::read("archive", fds.remove(0), JOB_BYTES_MAX).expect("sealed");
    let inputs = memory::read("inputs", fds.remove(0), JOB_BYTES_MAX).expect("sealed");
    let bundle = Bundle::parse(&archive).expect("a bundle");
    assert_eq!(bundle.digest(), launch.bundle);
    for code in fds.drain(..) {
        memory::read("code", code, JOB_BYTES_MAX).expect("sealed");
    }
    let plan = bundle.function(&launch.function).expect("a function").plan(&launch.parameters).expect("a plan");
    let outputs = bundle::reference::run(&plan, &inputs, &mut double).expect("it runs");
    assert_eq!(u64::try_from(outputs.len()), Ok(launch.output_bytes));
    memory::sealed("outputs", &outputs).expect("memory")
}

fn double(launch: &Kernel, memory: &mut [Vec<u8>]) -> Result<(), String> {
    let views: Vec<View> = launch
        .arguments
        .iter()
        .filter_map(|argument| match argument {
            Argument::View { view, .. } => Some(*view),
            Argument::Scalar(_) => None,
        })
        .collect();
    let [from, to] = views[..] else { return Err("two views were expected".to_owned()) };
    let doubled: Vec<u8> = memory[from.buffer]
        .as_chunks::<4>()
        .0
        .iter()
        .flat_map(|bytes| (2.0 * f32::from_le_bytes(*bytes)).to_le_bytes())
        .collect();
    memory[to.buffer].copy_from_slice(&doubled);
    Ok(())
}
