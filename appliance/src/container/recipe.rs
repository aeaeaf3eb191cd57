//! A source as it is to be run: what the runner is told of it, service by service, in the order of their starts.
//!
//! Invariant: a part awaits earlier parts only, as the compose file's plan promises.

use std::collections::BTreeSet;
use std::time::Duration;

use runner::protocol::{
    Digest, GRACE_MS_MAX, HealthTest, Limits, Malformed, NetworkPolicy, Published, ServiceName, ServiceSpec,
    SourcePlan, TmpfsMount, VolumeMount, VolumeName, VolumePlan,
};

use crate::compose::plan::{Condition, Plan, Restart, Service};

/// Time that a service has to end by itself when the compose file does not say. Source: Compose's own default.
const STOP_GRACE_MS: u64 = 10_000;

/// Permission bits of a tmpfs when the compose file does not say: those of `/tmp`.
const TMPFS_MODE: u32 = 0o1777;

/// What the owner gives one source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Given {
    /// Whom it may talk to.
    pub network: NetworkPolicy,
    /// The most that each of its volumes holds, in bytes.
    pub volume_bytes: u64,
}

/// What is to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipe {
    /// What the services share.
    pub plan: SourcePlan,
    /// In start order.
    pub parts: Vec<Part>,
    /// Which of them answers tasks.
    pub main: usize,
    /// The port at which it does.
    pub main_port: u16,
    /// Time from SIGTERM to SIGKILL: what its most patient service asks for.
    pub grace: Duration,
}

/// One service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Its name in the compose file.
    pub name: ServiceName,
    /// The manifest of its image.
    pub manifest: Digest,
    /// How it runs.
    pub spec: ServiceSpec,
    /// Which earlier parts must be how far before it starts.
    pub awaits: Vec<(usize, Condition)>,
    /// When it is started again.
    pub restart: Restart,
}

// === impl Recipe ===

impl Recipe {
    /// What `plan` asks for, with one manifest per service, as far as the owner gives it.
    /// Errors: a name that the runner does not take.
    pub fn of(plan: &Plan, manifests: &[Digest], given: Given) -> Result<Recipe, Malformed> {
        let names: Vec<ServiceName> =
            plan.services.iter().map(|service| service.name.parse()).collect::<Result<_, _>>()?;
        let volumes: Vec<VolumePlan> = plan
            .volumes
            .iter()
            .map(|volume| {
                let bytes = volume.bytes.map_or(given.volume_bytes, |asked| asked.min(given.volume_bytes));
                Ok(VolumePlan { name: volume.name.parse()?, bytes })
            })
            .collect::<Result<_, Malformed>>()?;
        let mut aliases = Vec::new();
        for (service, name) in plan.services.iter().zip(&names) {
            for alias in &service.aliases {
                aliases.push((alias.parse()?, name.clone()));
            }
        }
        let published = plan.published.iter().map(|one| Published {
            port: one.host_port,
            service: names[one.service].clone(),
            target: one.port,
        });
        let parts = plan.services.iter().zip(&names).zip(manifests).map(|((service, name), manifest)| Part {
            name: name.clone(),
            manifest: manifest.clone(),
            spec: spec_of(service, &volumes),
            awaits: service.depends_on.clone(),
            restart: service.restart,
        });
        let grace_ms = plan.services.iter().map(|service| service.stop_grace_ms.unwrap_or(STOP_GRACE_MS)).max();
        Ok(Recipe {
            parts: parts.collect(),
            main: plan.main,
            main_port: plan.main_port,
            grace: Duration::from_millis(grace_ms.unwrap_or(STOP_GRACE_MS).min(GRACE_MS_MAX)),
            plan: SourcePlan {
                network: given.network,
                published: published.collect(),
                services: names,
                aliases,
                volumes,
            },
        })
    }

    /// The service that answers tasks.
    pub fn main(&self) -> &Part {
        &self.parts[self.main]
    }

    /// The parts without which the main one is of no use: those that it awaits, and what they await.
    pub fn needed(&self) -> BTreeSet<usize> {
        let mut needed = BTreeSet::from([self.main]);
        // A part awaits earlier ones only, so that one pass from the end finds all.
        for index in (0..self.parts.len()).rev() {
            if needed.contains(&index) {
                needed.extend(self.parts[index].awaits.iter().map(|(awaited, _)| *awaited));
            }
        }
        needed
    }
}

/// How long a source has to end when nothing is known of it any more.
pub(super) fn usual_grace() -> Duration {
    Duration::from_millis(STOP_GRACE_MS)
}

fn spec_of(service: &Service, volumes: &[VolumePlan]) -> ServiceSpec {
    let usual = Limits::default();
    let name = |at: usize| -> VolumeName { volumes[at].name.clone() };
    let mounts = service.mounts.iter().map(|mount| VolumeMount {
        volume: name(mount.volume),
        target: mount.target.clone(),
        read_only: mount.read_only,
    });
    let tmpfs = service.tmpfs.iter().map(|one| TmpfsMount {
        target: one.target.clone(),
        bytes: one.bytes,
        mode: one.mode.unwrap_or(TMPFS_MODE),
    });
    let health = service.health.as_ref().map(|health| HealthTest {
        command: health.test.clone(),
        interval_ms: health.interval_ms,
        timeout_ms: health.timeout_ms,
        retries: health.retries,
        start_period_ms: health.start_period_ms,
    });
    ServiceSpec {
        command: service.command.clone(),
        entrypoint: service.entrypoint.clone(),
        environment: service.environment.clone(),
        working_dir: service.working_dir.clone(),
        user: service.user.clone(),
        read_only: service.read_only,
        volumes: mounts.collect(),
        tmpfs: tmpfs.collect(),
        health,
        limits: Limits {
            open_files: service.open_files.unwrap_or(usual.open_files),
            processes: service.processes.unwrap_or(usual.processes),
            shm_bytes: service.shm_bytes.unwrap_or(usual.shm_bytes),
            memory_bytes: service.memory_bytes.unwrap_or(usual.memory_bytes),
            cpu_millis: service.cpu_millis.unwrap_or(usual.cpu_millis),
            ..usual
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compose::plan::{Mount, Volume};

    fn service(name: &str, awaits: &[usize]) -> Service {
        let depends_on = awaits.iter().map(|at| (*at, Condition::Started)).collect();
        Service { name: name.into(), image: "i".into(), depends_on, ..Service::default() }
    }

    fn plan(services: Vec<Service>) -> Plan {
        Plan {
            cuda: None,
            main: services.len() - 1,
            services,
            main_port: 5555,
            volumes: Vec::new(),
            published: Vec::new(),
            notes: Vec::new(),
            exceptions: Vec::new(),
        }
    }

    fn recipe(plan: &Plan) -> Recipe {
        let digest: Digest = format!("sha256:{}", "a".repeat(64)).parse().expect("a digest");
        let given = Given { network: NetworkPolicy::Internal, volume_bytes: 1000 };
        Recipe::of(plan, &vec![digest; plan.services.len()], given).expect("legal names")
    }

    #[test]
    fn what_the_main_service_awaits_is_needed_and_a_sidecar_is_not() {
        let all = vec![service("db", &[]), service("pull", &[0]), service("sidecar", &[0]), service("main", &[1])];
        assert_eq!(recipe(&plan(all)).needed(), BTreeSet::from([0, 1, 3]));
    }

    #[test]
    fn a_source_is_given_as_long_to_end_as_its_most_patient_service_asks_within_the_runners_bound() {
        let patient = |ms| Service { stop_grace_ms: Some(ms), ..service("a", &[]) };
        for (services, millis) in [
            (vec![service("a", &[])], STOP_GRACE_MS),
            (vec![patient(1)], 1),
            (vec![patient(1), service("b", &[])], STOP_GRACE_MS),
            (vec![patient(u64::MAX)], GRACE_MS_MAX),
        ] {
            assert_eq!(recipe(&plan(services)).grace, Duration::from_millis(millis));
        }
    }

    #[test]
    fn a_volume_holds_what_the_file_asks_for_and_no_more_than_the_owner_gives() {
        let mut plan = plan(vec![service("a", &[])]);
        for (name, bytes) in [("a", Some(7)), ("b", Some(7000)), ("c", None)] {
            plan.volumes.push(Volume { name: name.into(), bytes });
        }
        plan.services[0].mounts.push(Mount { volume: 1, target: "/b".into(), read_only: true });
        let recipe = recipe(&plan);
        assert_eq!(recipe.plan.volumes.iter().map(|volume| volume.bytes).collect::<Vec<_>>(), [7, 1000, 1000]);
        assert_eq!(recipe.main().spec.volumes[0].volume.as_str(), "b");
    }
}
