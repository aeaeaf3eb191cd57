//! From the order to kill until the runner says that nothing of the jail is left.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use hostile::observed::descendants;
use hostile::rig::{MAIN, service};
use runner::protocol::{Ending, NetworkPolicy};

use crate::bed::{Bed, sealed};
use crate::table::{Part, Row, Table};

/// Processes of the jail that SIGTERM does not reach, besides its first.
const PROCESSES: usize = 20;

pub(crate) fn measure(bed: &Bed, _: &Path, rounds: u32, table: &mut Table) -> Result<()> {
    let source = bed.open("kill", &bed.image_inside, NetworkPolicy::Internal)?;
    let main = service(MAIN);
    let spec = sealed(&["/inside", "crowd", &PROCESSES.to_string()]);
    let mut samples = Vec::new();
    for round in 0..rounds {
        if round % 50 == 0 {
            eprintln!("bench: kill, round {round} of {rounds}");
        }
        bed.client().start(&source, &main, &bed.image_inside, spec.clone())?;
        bed.rig.printed(&source, "\n");
        let first = bed.rig.jail_pid(&source);
        let others = descendants(first);
        ensure!(others.len() == PROCESSES, "the jail has {} processes besides its first", others.len());
        let began = Instant::now();
        let how = bed.client().stop_service(&source, &main, Duration::ZERO)?;
        samples.push(began.elapsed().as_secs_f64() * 1000.0);
        ensure!(how == Ending::Killed, "it was not killed, but {how:?}");
        let left: Vec<u32> =
            others.into_iter().chain([first]).filter(|pid| Path::new(&format!("/proc/{pid}")).exists()).collect();
        ensure!(left.is_empty(), "processes {left:?} are left");
    }
    bed.client().stop(&source, Duration::ZERO)?;
    let what = format!("kill {PROCESSES} processes that block SIGTERM, until gone");
    let rows = vec![Row::new(what, "ms", samples, "the kernel's end of a pid namespace, and unmounting")];
    let notes = vec!["no grace; every process is looked for in /proc afterwards. The goal is p99 <= 100 ms".to_owned()];
    table.add(Part { title: "kill to empty jail".to_owned(), rows, notes });
    Ok(())
}
