//! Brings one service up: gathers everything that its jail stands on, and has the spawner make it.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use runner::image::Image;
use runner::protocol::{Digest, Limits, Refusal, ServiceName, ServiceSpec, VolumeMount};
use rustix::pipe::{PipeFlags, pipe_with};

use super::open::Source;
use super::run::{Jail, Over, Run, Wanted};
use super::work::Work;
use super::{Sources, disk_refused, internal};
use crate::berths::Berth;
use crate::cgroup::{Cgroup, CgroupLimits};
use crate::disk::Disk;
use crate::furniture::{Device, Furniture};
use crate::layers::{Held, LayersError};
use crate::link::{LinkError, Watch};
use crate::logs::Log;
use crate::orders::{JailPlan, MountPlan, Order, RootPlan, StepFailed, Ticket, VolumeBind};
use crate::service::{self, Mount, Service};
use crate::state_dir::{RunDir, StateDir};

/// How long a jail whose first process has been reaped may still hold its cgroup.
const EMPTY_TIMEOUT: Duration = Duration::from_secs(5);

/// What a run stands on; dropped when it is over, in this order.
#[derive(Debug)]
struct Ground {
    /// Where the service writes, unless it may not.
    disk: Option<Disk>,
    /// Where its furniture is, relative.
    furniture: String,
    image: Held,
    /// What is mounted in it is unmounted first.
    dir: RunDir,
}

// === impl Sources ===

impl Sources {
    pub(super) fn launch(
        self: &Arc<Self>,
        source: &Arc<Source>,
        service: &ServiceName,
        manifest: &Digest,
        spec: ServiceSpec,
        work: Option<Work<'_>>,
    ) -> Result<Arc<Run>, Refusal> {
        let content = if work.is_some() { &self.own } else { &self.content };
        let image = content.image(manifest)?;
        let merged = service::merge(&image.config, &spec)?;
        let berth = self.berths.take().map_err(|error| internal(&error))?;
        let number = berth.number;
        let devices = work.as_ref().map_or(&[][..], |work| work.devices);
        let ground = self.ground(source, number, manifest, &image, &spec, (service, devices))?;
        let mut plan = self.plan(source, service, number, merged, &spec, &ground)?;
        plan.worker = work.as_ref().map(|work| work.plan.clone());
        let log = Log::begin(&self.state.logs(&source.name, service)).map_err(|error| internal(&error))?;
        let (jail, output) = self.order(source, service, berth, plan, work.map(|work| work.socket))?;
        let watch = jail.watch.clone();
        let run = Arc::new(Run::new(Wanted { number, manifest: manifest.clone(), spec }, jail));
        let (kept, name) = (run.clone(), format!("{}/{service}", source.name));
        let keep = move || {
            log.follow(output);
            let exit = watch.wait();
            let out_of_memory = kept.take_cgroup().is_some_and(|cgroup| sweep(cgroup, &name));
            drop(ground);
            kept.end(Over { exit, out_of_memory });
            tracing::info!(service = name, run = kept.number.0, ?exit, out_of_memory, "a service ended");
        };
        if let Err(error) = std::thread::Builder::new().name("run".to_owned()).spawn(keep) {
            // Without a keeper nobody reads its output; the runner is out of threads and says so.
            run.kill();
            return Err(internal(&error));
        }
        tracing::info!(source = %source.name, %service, run = number.0, pid = run.pid, "a service started");
        Ok(run)
    }

    fn ground(
        &self,
        source: &Source,
        number: Ticket,
        manifest: &Digest,
        image: &Image,
        spec: &ServiceSpec,
        (service, devices): (&ServiceName, &[Device]),
    ) -> Result<Ground, Refusal> {
        let digests: Vec<Digest> = image.layers.iter().map(|layer| layer.digest.clone()).collect();
        let image = self.layers.hold(source.slot, &digests).map_err(|error| match error {
            LayersError::Absent { .. } | LayersError::Damaged { .. } => {
                Refusal::NotPrepared { manifest: manifest.clone() }
            }
            other => internal(&other),
        })?;
        source.keep(manifest, || self.layers.hold(source.slot, &digests)).map_err(|error| internal(&error))?;
        let furniture = self.furniture(source, service, devices)?;
        let dir = self.state.begin_run(number, source.slot).map_err(|error| internal(&error))?;
        let disk = if spec.read_only {
            None
        } else {
            let (bytes, place) = (spec.limits.scratch_bytes, dir.file("disk"));
            Some(self.disks.scratch(&self.state.scratch(number), bytes, &place, source.slot).map_err(disk_refused)?)
        };
        Ok(Ground { disk, furniture, image, dir })
    }

    /// What the jails of a service find besides their image: made once, because it is the same for every run.
    fn furniture(&self, source: &Source, service: &ServiceName, devices: &[Device]) -> Result<String, Refusal> {
        let place = StateDir::furniture(source.slot, source.number(service)?);
        let mut given = source.furniture();
        if !given.contains_key(service) {
            self.state.make_place(&place).map_err(|error| internal(&error))?;
            let files = [
                ("hosts", source.hosts()),
                ("hostname", format!("{service}\n")),
                ("resolv.conf", source.resolvers(self.egress.as_ref())),
            ];
            let furniture = Furniture::make(self.state.path().join(&place), &files, devices);
            given.insert(service.clone(), furniture.map_err(|error| internal(&error))?);
        }
        Ok(place)
    }

    fn plan(
        &self,
        source: &Source,
        service: &ServiceName,
        ticket: Ticket,
        merged: Service,
        spec: &ServiceSpec,
        ground: &Ground,
    ) -> Result<JailPlan, Refusal> {
        let dir = ground.dir.relative();
        let writes = |name: &str| match ground.disk {
            Some(_) => Disk::room(&format!("{dir}/disk"), name),
            // A file system in memory, which the jail makes there for itself.
            None => format!("{dir}/disk/{name}"),
        };
        let root = RootPlan {
            lower: ground.image.lower(),
            upper: writes("upper"),
            work: writes("work"),
            merged: format!("{dir}/merged"),
            dev: format!("{}/{}", ground.furniture, Furniture::DEV),
            etc: format!("{}/{}", ground.furniture, Furniture::ETC),
            is_sealed: spec.read_only,
        };
        let mounts = merged.mounts.into_iter().map(|mount| match mount {
            Mount::Tmpfs(tmpfs) => Ok(MountPlan::Tmpfs(tmpfs)),
            Mount::Volume(VolumeMount { volume, target, read_only }) => {
                let volume = source.volumes.get(&volume).ok_or_else(|| Refusal::BadService {
                    detail: format!("the source was opened without the volume {volume}"),
                })?;
                Ok(MountPlan::Volume(VolumeBind { from: volume.data.clone(), target, read_only }))
            }
        });
        Ok(JailPlan {
            ticket,
            slot: source.slot,
            hostname: service.to_string(),
            root,
            mounts: mounts.collect::<Result<_, Refusal>>()?,
            argv: merged.argv,
            environment: merged.environment,
            working_dir: merged.working_dir,
            user: merged.user,
            limits: spec.limits,
            health: spec.health.clone(),
            worker: None,
        })
    }

    /// Has the spawner make the jail; answers it, and the end of the pipe that its output comes out of.
    fn order(
        &self,
        source: &Source,
        service: &ServiceName,
        berth: Berth,
        plan: JailPlan,
        socket: Option<BorrowedFd<'_>>,
    ) -> Result<(Jail, File), Refusal> {
        let Berth { number: ticket, netns, cgroup } = berth;
        if let Some(hub) = &source.hub {
            hub.attach(source.number(service)?, &netns).map_err(|error| internal(&error))?;
        }
        if let Some(cgroup) = &cgroup {
            cgroup.limit(&self.cgroup_limits(&plan.limits)).map_err(|error| internal(&error))?;
        }
        let (output, far) = pipe_with(PipeFlags::CLOEXEC).map_err(|error| internal(&error))?;
        let watch = Arc::new(Watch::default());
        let order = Order::Start(Box::new(plan));
        let mut fds = vec![far.as_fd(), netns.as_fd()];
        if let Some(cgroup) = &cgroup {
            fds.push(cgroup.fd());
        }
        fds.extend(socket);
        let (pid, fds) = self.link.order(ticket, &order, &fds, watch.clone()).map_err(link_failed)?;
        let [pidfd] = <[OwnedFd; 1]>::try_from(fds)
            .map_err(|_| Refusal::Internal { detail: "the spawner sent no jail".to_owned() })?;
        Ok((Jail { pid, pidfd, watch, cgroup }, File::from(output)))
    }

    fn cgroup_limits(&self, limits: &Limits) -> CgroupLimits {
        let asked = if limits.memory_bytes == 0 { self.memory_bytes } else { limits.memory_bytes };
        CgroupLimits {
            memory_bytes: asked.min(self.memory_bytes),
            processes: limits.processes,
            cpu_millis: (limits.cpu_millis > 0).then_some(limits.cpu_millis),
            memory_high_bytes: None,
            cpu_weight: None,
            io_weight: None,
            io_max: self.io_max.clone(),
        }
    }
}

/// Removes the cgroup of a jail that has ended; answers whether the kernel killed in it for want of memory.
fn sweep(cgroup: Cgroup, name: &str) -> bool {
    let killed = cgroup.usage().is_ok_and(|usage| usage.oom_kills > 0);
    // The pid namespace has ended, so this is empty at once; one that is not is told of, and killed again when the
    // next runner starts.
    match cgroup.wait_empty(EMPTY_TIMEOUT).and_then(|_| cgroup.remove()) {
        Ok(()) => {}
        Err(error) => tracing::error!(service = name, %error, "a cgroup is left"),
    }
    killed
}

pub(super) fn link_failed(error: LinkError) -> Refusal {
    match error {
        LinkError::Failed(failure) => jail_failed(failure),
        LinkError::Refused { detail } => Refusal::BadService { detail },
        other => internal(&other),
    }
}

pub(super) fn jail_failed(StepFailed { step, errno }: StepFailed) -> Refusal {
    Refusal::JailFailed { step, errno }
}
