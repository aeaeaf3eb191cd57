//! From the wish to have a jail until its program, which does nothing, has been reaped.

use std::path::Path;
use std::time::Instant;

use anyhow::Result;
use runner::protocol::{NetworkPolicy, ServiceSpec};

use crate::anchors::Anchors;
use crate::bed::{Bed, sealed, writable};
use crate::table::{Measured, Part, Row, Table};

/// Rounds that are not counted.
const WARM_UP: u32 = 8;

/// The row that others are set beside.
const ANCHOR: &str = "bubblewrap, seccomp";

/// One of the jails, and what was measured of it.
struct Case<'a> {
    name: &'static str,
    bound: String,
    run: Box<dyn FnMut() -> Result<()> + 'a>,
    samples: Vec<f64>,
    cannot: Option<String>,
}

pub(crate) fn measure(bed: &Bed, _: &Path, rounds: u32, table: &mut Table) -> Result<()> {
    let anchors = Anchors::make(bed)?;
    let mut cases = cases(bed, &anchors)?;
    for round in 0..WARM_UP + rounds {
        if round % 50 == 0 {
            eprintln!("bench: spawn, round {round} of {}", WARM_UP + rounds);
        }
        for case in cases.iter_mut().filter(|case| case.cannot.is_none()) {
            let began = Instant::now();
            let result = (case.run)();
            let took = began.elapsed();
            match result {
                Err(error) if round < WARM_UP => case.cannot = Some(format!("{error:#}")),
                Err(error) => return Err(error.context(case.name)),
                Ok(()) if round >= WARM_UP => case.samples.push(took.as_secs_f64() * 1000.0),
                Ok(()) => {}
            }
        }
    }
    let mut rows: Vec<Row> = cases.into_iter().map(Case::row).collect();
    let anchor = rows.iter().find(|row| row.what == ANCHOR).and_then(Row::median);
    rows.iter_mut().for_each(|row| row.beside(anchor, "bubblewrap"));
    let notes = vec![
        format!(
            "bubblewrap: --unshare-all with a user namespace, and a filter of {} instructions made beforehand; crun, runc: \
             a user namespace, and {} names that they compile at each start",
            anchors.instructions, anchors.names
        ),
        "crun: --cgroup-manager=disabled; runc: with the cgroups of version 1 that it cannot do without".to_owned(),
        "ours: a Start and a Wait through the runner's socket; the source is open, the image sealed and mounted, and but \
         for the second row the runner had 5 ms to make a child in advance. Ours also holds Landlock, id-mapped layers, \
         a log and the files of /etc; the goal is at most 0.5 x bubblewrap"
            .to_owned(),
    ];
    table.add(Part { title: "spawn, jailed static true, reaped".to_owned(), rows, notes });
    Ok(())
}

fn cases<'a>(bed: &'a Bed, anchors: &'a Anchors) -> Result<Vec<Case<'a>>> {
    let truth = ["/bin/true"];
    let ours = |name, source, network, spec: ServiceSpec, bound: &str| -> Result<Case<'a>> {
        let source = bed.open(source, &bed.image_true, network)?;
        let run = move || bed.run(&source, &bed.image_true, spec.clone()).map(drop);
        Ok(Case::new(name, bound, run))
    };
    let (mut crun, mut runc) = (0, 0);
    // Ours and the others take turns, because a child for the next start is made while nobody starts anything.
    Ok(vec![
        Case::new("no jail, posix_spawn", "the kernel's fork, execution and exit", || anchors.bare()),
        ours(
            "ours, read-only root, no network",
            "spawn-none",
            NetworkPolicy::None,
            sealed(&truth),
            "namespaces, mounts, and the way through two sockets",
        )?,
        ours(
            "ours, the same straight after another start",
            "spawn-again",
            NetworkPolicy::None,
            sealed(&truth),
            "the same, and a network namespace and a child made",
        )?,
        Case::new(ANCHOR, "a process that sets up a jail from nothing", || anchors.bubblewrap(true)),
        Case::new("bubblewrap, no seccomp", "the same", || anchors.bubblewrap(false)),
        ours(
            "ours, read-only root, internal network",
            "spawn-internal",
            NetworkPolicy::Internal,
            sealed(&truth),
            "the first, and a veth pair made and taken away",
        )?,
        Case::new("crun", "libseccomp compiles the list each time", move || {
            crun += 1;
            anchors.crun(crun)
        }),
        ours(
            "ours, disk of its own, no network",
            "spawn-disk",
            NetworkPolicy::None,
            writable(&truth),
            "the first, and an overlay, an ext4 made and mounted",
        )?,
        Case::new("ours, only the way through the socket", "a message each way", || {
            Ok(bed.client().overview().map(drop)?)
        }),
        Case::new("ours, only reading the image's documents", "the same, two blobs hashed and parsed", || {
            Ok(bed.client().missing(&bed.image_true).map(drop)?)
        }),
        Case::new("runc", "a Go runtime that starts three times, cgroups", move || {
            runc += 1;
            anchors.runc(runc)
        }),
    ])
}

// === impl Case ===

impl<'a> Case<'a> {
    fn new(name: &'static str, bound: &str, run: impl FnMut() -> Result<()> + 'a) -> Self {
        Self { name, bound: bound.to_owned(), run: Box::new(run), samples: Vec::new(), cannot: None }
    }

    fn row(self) -> Row {
        let mut row = Row::new(self.name, "ms", self.samples, self.bound);
        if let Some(why) = self.cannot {
            row.measured = Measured::CannotRun(why);
        }
        row
    }
}
