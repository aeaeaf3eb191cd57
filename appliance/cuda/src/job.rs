//! The one job of a worker: from descriptors to outputs.
//!
//! Invariants: nothing is asked of the device before the archive, the plan and the sizes of all descriptors agree with
//! each other; no PTX is ever shown to the driver; after the driver has said no, nothing more is asked of it; the
//! outputs are written in one pass, at the end, and never beyond the size that the file had.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;

use bundle::{Arch, Bundle, BundleError, Digest, Kind, Operation, Plan, PlanError};
use cuda::class::Class;
use cuda::messages::{CUBIN_BYTES_MAX, DETAIL_BYTES_MAX, Failure, Job, JobTimings, MARKS_MAX, Ran, clipped};

use crate::driver::{DevicePointer, Driver, Refused, Stream};
use crate::image::{Image, ImageError};
use crate::memory::{MoveError, Staging};
use crate::run::{Kernels, Step};
use crate::scan::{self, Scan};
use crate::stopwatch::Stopwatch;

/// The largest archive that a bundle may be, in bytes.
const ARCHIVE_BYTES_MAX: u64 = 64 << 20;

/// A device with a context, and what is made once.
#[derive(Debug)]
pub(crate) struct Worker {
    /// The calls.
    pub(crate) driver: Driver,
    /// Of the device.
    pub(crate) arch: Arch,
    /// All that a job does is on this one.
    pub(crate) stream: Stream,
    /// How bytes come and go.
    pub(crate) staging: Staging,
}

/// Why a job ended early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JobError {
    /// The descriptors are not those of this job: the starter's fault.
    #[error("take the descriptors of the job")]
    Descriptors(#[source] DescriptorError),
    /// The bundle is not one.
    #[error("parse the bundle")]
    Bundle(#[source] BundleError),
    /// The bundle is another one.
    #[error("check the bundle: its digest is {found}")]
    Digest {
        /// Of the archive that came.
        found: Digest,
    },
    /// The bundle has no such function.
    #[error("find the function in the bundle")]
    Function,
    /// There is no plan for these parameters.
    #[error("plan the function")]
    Plan(#[source] PlanError),
    /// The plan is more than a worker takes.
    #[error("take the plan: {0}")]
    TooMuch(String),
    /// A module is not for this device, or not machine code.
    #[error("take module {module}")]
    Image {
        /// Its name.
        module: String,
        /// What is wrong.
        #[source]
        source: ImageError,
    },
    /// A module is machine code for other devices.
    #[error("take module {module}: it has no code for {arch}")]
    NoKernelImage {
        /// Its name.
        module: String,
        /// What the device is.
        arch: Arch,
    },
    /// The driver refused.
    #[error("{during}")]
    Driver {
        /// A step, such as `allocate buffer a`.
        during: String,
        /// What it said.
        #[source]
        source: Refused,
    },
    /// Bytes did not get through.
    #[error("{during}")]
    Move {
        /// A step.
        during: String,
        /// Why.
        #[source]
        source: MoveError,
    },
}

/// Descriptors that do not fit the job.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DescriptorError {
    /// Not one for the bundle, the inputs, the outputs and each PTX module.
    #[error("{found} descriptors, but this bundle takes {expected}")]
    Count {
        /// How many came.
        found: usize,
        /// How many should.
        expected: usize,
    },
    /// A file is not as long as the plan says.
    #[error("the {file} are {found} bytes, but the plan has {expected}")]
    Size {
        /// `inputs` or `outputs`.
        file: &'static str,
        /// Its length in bytes.
        found: u64,
        /// What the plan has, in bytes.
        expected: u64,
    },
    /// A file is longer than anything of its kind.
    #[error("the {file} is {found} bytes, more than {max}")]
    TooLong {
        /// `bundle` or `cubin`.
        file: &'static str,
        /// Its length in bytes.
        found: u64,
        /// The bound, in bytes.
        max: u64,
    },
    /// A file cannot be read.
    #[error("read the {file}")]
    Read {
        /// Which.
        file: &'static str,
        /// What the kernel said.
        #[source]
        source: std::io::Error,
    },
}

/// What of a job needs no device: everything that can be wrong with it is found here.
struct Prepared {
    plan: Plan,
    /// Of the modules that the plan launches from; the others are not loaded.
    images: Vec<Option<(String, Image)>>,
    inputs: File,
    outputs: File,
}

/// Does the job.
///
/// # Errors
/// [`JobError`]: at what it ended.
pub(crate) fn perform(worker: &mut Worker, job: &Job, fds: Vec<OwnedFd>) -> Result<Ran, JobError> {
    let mut timings = JobTimings::default();
    let mut watch = Stopwatch::start();
    let prepared = prepare(worker.arch, job, fds)?;
    timings.parse_us = watch.lap_us();

    let scan = if job.scan { scan_memory(worker)? } else { Scan::default() };
    timings.scan_us = if job.scan { watch.lap_us() } else { 0 };

    let kernels = load(worker, &prepared)?;
    timings.load_us = watch.lap_us();

    let plan = &prepared.plan;
    let buffers = allocate(worker, plan)?;
    let mut run = crate::run::Run::new(&worker.driver, plan).map_err(at("make events"))?;
    timings.allocate_us = watch.lap_us();

    upload(worker, plan, &buffers, &prepared.inputs)?;
    timings.upload_us = watch.lap_us();

    let ended = run.perform(worker, &Step { plan, kernels: &kernels, buffers: &buffers })?;
    timings.first_launch_us = ended.first_launch_us;
    timings.run_us = watch.lap_us();

    download(worker, plan, &buffers, &prepared.outputs)?;
    timings.download_us = watch.lap_us();
    Ok(Ran { marks_ms: ended.marks_ms, timings, scanned_bytes: scan.scanned_bytes, dirty_bytes: scan.dirty_bytes })
}

fn prepare(arch: Arch, job: &Job, fds: Vec<OwnedFd>) -> Result<Prepared, JobError> {
    let found = fds.len();
    let mut files = fds.into_iter().map(File::from);
    let mut next = |expected| files.next().ok_or(JobError::Descriptors(DescriptorError::Count { found, expected }));
    let archive = read(&next(3)?, "bundle", ARCHIVE_BYTES_MAX).map_err(JobError::Descriptors)?;
    let (inputs, outputs) = (next(3)?, next(3)?);
    let bundle = Bundle::parse(&archive).map_err(JobError::Bundle)?;
    if bundle.digest() != job.bundle {
        return Err(JobError::Digest { found: bundle.digest() });
    }
    let function = bundle.function(&job.function).ok_or(JobError::Function)?;
    let plan = function.plan(&job.parameters).map_err(JobError::Plan)?;
    check_marks(&plan)?;
    check_size(&inputs, "inputs", plan.input_bytes()).map_err(JobError::Descriptors)?;
    check_size(&outputs, "outputs", plan.output_bytes()).map_err(JobError::Descriptors)?;

    let is_ptx = |kind| match kind {
        Kind::Ptx => true,
        Kind::Cubin | Kind::Fatbin => false,
    };
    let expected = 3 + bundle.modules().iter().filter(|module| is_ptx(module.kind())).count();
    if found != expected {
        return Err(JobError::Descriptors(DescriptorError::Count { found, expected }));
    }
    let mut images = Vec::new();
    for (index, module) in bundle.modules().iter().enumerate() {
        let compiled = if is_ptx(module.kind()) { Some(next(expected)?) } else { None };
        let is_used = plan.operations.iter().any(|operation| launches_from(operation, index));
        if !is_used {
            images.push(None);
            continue;
        }
        let bytes = match compiled {
            Some(file) => read(&file, "cubin", CUBIN_BYTES_MAX).map_err(JobError::Descriptors)?,
            None if module.runs_on(arch) => module.bytes().to_vec(),
            None => return Err(JobError::NoKernelImage { module: module.name().to_owned(), arch }),
        };
        let name = module.name().to_owned();
        match Image::new(bytes) {
            Ok(image) => images.push(Some((name, image))),
            Err(source) => return Err(JobError::Image { module: name, source }),
        }
    }
    Ok(Prepared { plan, images, inputs, outputs })
}

fn check_marks(plan: &Plan) -> Result<(), JobError> {
    let marks = plan.marks.len();
    if marks > MARKS_MAX {
        return Err(JobError::TooMuch(format!("{marks} marks, more than {MARKS_MAX}; take some out of the loops")));
    }
    Ok(())
}

fn launches_from(operation: &Operation, module: usize) -> bool {
    match operation {
        Operation::Launch(launch) => launch.module == module,
        Operation::Copy { .. } | Operation::Fill { .. } | Operation::Mark(_) => false,
    }
}

fn scan_memory(worker: &mut Worker) -> Result<Scan, JobError> {
    scan::scan(&worker.driver, &mut worker.staging).map_err(at("scan the free memory"))
}

/// Loads the modules and finds every kernel that the plan launches, so that nothing is missing once time is paid for.
fn load(worker: &Worker, prepared: &Prepared) -> Result<Kernels, JobError> {
    let mut modules = Vec::with_capacity(prepared.images.len());
    for image in &prepared.images {
        let Some((name, image)) = image else {
            modules.push(None);
            continue;
        };
        let module = worker.driver.load_module(image);
        modules.push(Some(module.map_err(|source| refused(format!("load module {name}"), source))?));
    }
    let mut kernels = Kernels::default();
    for operation in &prepared.plan.operations {
        let Operation::Launch(launch) = operation else { continue };
        let Some(module) = modules[launch.module] else { continue };
        if kernels.has(launch) {
            continue;
        }
        let during = || format!("find kernel {}", launch.kernel);
        let name = CString::new(launch.kernel.as_str()).map_err(|_| JobError::TooMuch(during()))?;
        let kernel = worker.driver.kernel(module, &name).map_err(|source| refused(during(), source))?;
        kernels.add(launch, kernel);
    }
    kernels.allow_shared_bytes(&worker.driver, &prepared.plan)?;
    Ok(kernels)
}

fn allocate(worker: &Worker, plan: &Plan) -> Result<Vec<DevicePointer>, JobError> {
    let allocate = |buffer: &bundle::PlannedBuffer| {
        let pointer = worker.driver.allocate(buffer.bytes);
        pointer.map_err(|source| refused(format!("allocate buffer {}", buffer.name), source))
    };
    plan.buffers.iter().map(allocate).collect()
}

/// Inputs from their file, one behind the other; zeros in every other buffer.
fn upload(worker: &mut Worker, plan: &Plan, buffers: &[DevicePointer], inputs: &File) -> Result<(), JobError> {
    let mut offset = 0;
    for (buffer, pointer) in plan.buffers.iter().zip(buffers) {
        let during = || format!("upload buffer {}", buffer.name);
        if buffer.has_input {
            let moved = worker.staging.upload(&worker.driver, (inputs, offset), *pointer, buffer.bytes);
            moved.map_err(|source| JobError::Move { during: during(), source })?;
            offset += buffer.bytes;
        } else {
            let filled = worker.driver.fill_8(*pointer, 0, buffer.bytes, worker.stream);
            filled.map_err(|source| refused(during(), source))?;
        }
    }
    worker.driver.drain(worker.stream).map_err(at("upload the inputs"))
}

/// Outputs into their file, one behind the other. The file has room for exactly these; see [`prepare`].
fn download(worker: &mut Worker, plan: &Plan, buffers: &[DevicePointer], outputs: &File) -> Result<(), JobError> {
    let mut offset = 0;
    for (buffer, pointer) in plan.buffers.iter().zip(buffers).filter(|(buffer, _)| buffer.has_output) {
        let moved = worker.staging.download(&worker.driver, *pointer, buffer.bytes, (outputs, offset));
        let during = || format!("download buffer {}", buffer.name);
        moved.map_err(|source| JobError::Move { during: during(), source })?;
        offset += buffer.bytes;
    }
    Ok(())
}

/// All of `file`, which may be longer than what is sent in one message but not than `max`.
pub(crate) fn read(file: &File, name: &'static str, max: u64) -> Result<Vec<u8>, DescriptorError> {
    let failed = |source| DescriptorError::Read { file: name, source };
    let found = file.metadata().map_err(failed)?.len();
    if found > max {
        return Err(DescriptorError::TooLong { file: name, found, max });
    }
    let mut bytes = vec![0; usize::try_from(found).unwrap_or(usize::MAX)];
    file.read_exact_at(&mut bytes, 0).map_err(failed)?;
    Ok(bytes)
}

fn check_size(file: &File, name: &'static str, expected: u64) -> Result<(), DescriptorError> {
    let found = file.metadata().map_err(|source| DescriptorError::Read { file: name, source })?.len();
    if found == expected { Ok(()) } else { Err(DescriptorError::Size { file: name, found, expected }) }
}

/// An error of the driver at a step.
pub(crate) fn refused(during: String, source: Refused) -> JobError {
    JobError::Driver { during, source }
}

fn at(during: &'static str) -> impl FnOnce(Refused) -> JobError {
    move |source| refused(during.to_owned(), source)
}

// === impl JobError ===

impl JobError {
    /// What the runner is told.
    pub(crate) fn failure(&self) -> Failure {
        let driver = self.driver();
        let why = anyhow::Chain::new(self).skip(1).map(ToString::to_string).collect::<Vec<_>>().join(": ");
        Failure {
            class: self.class(),
            code: driver.map_or(0, |refused| refused.code),
            name: driver.map(|refused| refused.name.clone()).unwrap_or_default(),
            during: clipped(&self.to_string(), DETAIL_BYTES_MAX).to_owned(),
            detail: clipped(&why, DETAIL_BYTES_MAX).to_owned(),
        }
    }

    fn driver(&self) -> Option<&Refused> {
        match self {
            Self::Driver { source, .. } | Self::Move { source: MoveError::Driver(source), .. } => Some(source),
            Self::Move { source: MoveError::File { .. }, .. }
            | Self::Descriptors(_)
            | Self::Bundle(_)
            | Self::Digest { .. }
            | Self::Function
            | Self::Plan(_)
            | Self::TooMuch(_)
            | Self::Image { .. }
            | Self::NoKernelImage { .. } => None,
        }
    }

    fn class(&self) -> Class {
        match self {
            Self::Bundle(_) | Self::Digest { .. } | Self::Function | Self::Plan(_) | Self::TooMuch(_) => {
                Class::BadBundle
            }
            Self::Image { source: ImageError::Neither, .. } => Class::UnsupportedPtx,
            Self::Image { source: ImageError::NotCuda | ImageError::Beyond(_), .. } => Class::BadBundle,
            Self::NoKernelImage { .. } => Class::NoKernelImage,
            Self::Driver { source, .. } | Self::Move { source: MoveError::Driver(source), .. } => source.class(),
            Self::Descriptors(_) | Self::Move { source: MoveError::File { .. }, .. } => Class::Driver,
        }
    }
}
