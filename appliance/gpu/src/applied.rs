//! The owner's settings in effect, and the way back.
//!
//! Invariants: what was there before is remembered before anything is changed; [`Applied`] puts it back when it ends,
//! by whatever way. A process that is killed puts nothing back, so its [`Restore`] belongs on disk before
//! [`Applied::apply`], and the next process applies it first. NVML does not tell which clocks were locked, so the way
//! back from locked clocks is the board's own choice.

use crate::driver::{Driver, GpuError, said};
use crate::inventory::GpuUuid;
use crate::settings::{Checked, ClockRange, FanCurve};
use nvml_wrapper::Device;
use nvml_wrapper::enums::device::{FanControlPolicy, GpuLockedClocksSetting};
use nvml_wrapper::error::NvmlError;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// How one GPU was set before, as far as its settings change it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Restore {
    /// Which GPU.
    pub gpu: GpuUuid,
    /// The power limit, if it changes.
    pub power_limit_mw: Option<u32>,
    /// Whether graphics clocks get locked.
    pub resets_clocks: bool,
    /// Whether memory clocks get locked.
    pub resets_memory_clocks: bool,
    /// The fans, if they change, by number.
    pub fans: Vec<FanBefore>,
}

/// How one fan was driven.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FanBefore {
    /// By the board.
    Automatic,
    /// At a fixed speed.
    Percent(u32),
}

/// Settings in effect. Dropping it puts back what was there before.
#[derive(Debug)]
pub struct Applied {
    driver: Arc<Driver>,
    restore: Restore,
    fan_curve: Option<FanCurve>,
    fan_percent: Option<u32>,
    is_restored: bool,
}

// === impl Restore ===

impl Restore {
    /// Reads what `settings` would change. Errors: [`GpuError::NoSuchGpu`], [`GpuError::Lost`], [`GpuError::Call`].
    pub fn remember(driver: &Driver, settings: &Checked) -> Result<Self, GpuError> {
        let device = driver.device(settings.gpu())?;
        let failed = |error| GpuError::of("tell the settings", settings.gpu(), error);
        let power_limit_mw = match settings.power_limit_mw() {
            Some(_) => Some(device.power_management_limit().map_err(failed)?),
            None => None,
        };
        let fans = match settings.fan_curve() {
            Some(_) => (0..device.num_fans().map_err(failed)?).map(|fan| fan_before(&device, fan)).collect(),
            None => Ok(Vec::new()),
        };
        Ok(Self {
            gpu: settings.gpu().clone(),
            power_limit_mw,
            resets_clocks: settings.locked_clocks_mhz().is_some(),
            resets_memory_clocks: settings.locked_memory_clocks_mhz().is_some(),
            fans: fans.map_err(failed)?,
        })
    }

    /// Puts everything back. Does all of it even if some part fails. Errors: of the first part that failed.
    pub fn restore(&self, driver: &Driver) -> Result<(), GpuError> {
        let mut device = driver.device(&self.gpu)?;
        let mut results = Vec::new();
        if let Some(limit_mw) = self.power_limit_mw {
            results.push(("put back the power limit", device.set_power_management_limit(limit_mw)));
        }
        if self.resets_clocks {
            results.push(("unlock the clocks", device.reset_gpu_locked_clocks()));
        }
        if self.resets_memory_clocks {
            results.push(("unlock the memory clocks", device.reset_mem_locked_clocks()));
        }
        for (fan, before) in (0_u32..).zip(&self.fans) {
            let result = match before {
                FanBefore::Automatic => device.set_default_fan_speed(fan),
                FanBefore::Percent(percent) => device.set_fan_speed(fan, *percent),
            };
            results.push(("put back the fans", result));
        }
        let first = results.into_iter().find_map(|(what, result)| result.err().map(|error| (what, error)));
        first.map_or(Ok(()), |(what, error)| Err(GpuError::of(what, &self.gpu, error)))
    }
}

/// A board that does not say how its fan is driven drives it itself: nothing else could have been set on it.
fn fan_before(device: &Device<'_>, fan: u32) -> Result<FanBefore, NvmlError> {
    match said(device.fan_control_policy(fan))? {
        Some(FanControlPolicy::Manual) => device.fan_speed(fan).map(FanBefore::Percent),
        Some(FanControlPolicy::TemperatureContinousSw) | None => Ok(FanBefore::Automatic),
    }
}

// === impl Applied ===

impl Applied {
    /// Puts `settings` into effect. `restore` is what [`Restore::remember`] gave for them, and by now on disk. A fan
    /// curve takes effect with [`Self::steer_fans`].
    /// Errors: as [`Restore::remember`]; whatever was changed before the error is put back.
    pub fn apply(driver: Arc<Driver>, settings: &Checked, restore: Restore) -> Result<Self, GpuError> {
        let fan_curve = settings.fan_curve().cloned();
        let applied = Self { driver, restore, fan_curve, fan_percent: None, is_restored: false };
        applied.set(settings)?;
        Ok(applied)
    }

    fn set(&self, settings: &Checked) -> Result<(), GpuError> {
        let mut device = self.driver.device(settings.gpu())?;
        let failed = |what| move |error| GpuError::of(what, settings.gpu(), error);
        if let Some(limit_mw) = settings.power_limit_mw() {
            device.set_power_management_limit(limit_mw).map_err(failed("set the power limit"))?;
        }
        if let Some(ClockRange { min, max }) = settings.locked_clocks_mhz() {
            let range = GpuLockedClocksSetting::Numeric { min_clock_mhz: min, max_clock_mhz: max };
            device.set_gpu_locked_clocks(range).map_err(failed("lock the clocks"))?;
        }
        if let Some(ClockRange { min, max }) = settings.locked_memory_clocks_mhz() {
            device.set_mem_locked_clocks(min, max).map_err(failed("lock the memory clocks"))?;
        }
        Ok(())
    }

    /// Sets the fans to what the curve gives for this temperature of the chip, if that changed. Call it with each
    /// sample.
    /// Errors: as [`Restore::remember`].
    pub fn steer_fans(&mut self, temperature_c: u32) -> Result<(), GpuError> {
        let percent = self.fan_curve.as_ref().map(|curve| curve.percent_at(temperature_c));
        let Some(percent) = percent.filter(|percent| self.fan_percent != Some(*percent)) else { return Ok(()) };
        let mut device = self.driver.device(&self.restore.gpu)?;
        for (fan, _) in (0_u32..).zip(&self.restore.fans) {
            let result = device.set_fan_speed(fan, percent);
            result.map_err(|error| GpuError::of("set the fans", &self.restore.gpu, error))?;
        }
        self.fan_percent = Some(percent);
        Ok(())
    }

    /// Puts everything back and says whether that worked. Errors: as [`Restore::restore`].
    pub fn end(mut self) -> Result<(), GpuError> {
        self.is_restored = true;
        self.restore.restore(&self.driver)
    }
}

impl Drop for Applied {
    fn drop(&mut self) {
        if !self.is_restored {
            // Whoever wants to hear of a failure calls `end`.
            let _ = self.restore.restore(&self.driver);
        }
    }
}
