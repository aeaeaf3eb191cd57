//! What the owner sets on a GPU: power limit, locked clocks, fan curve. Checked here against what the board takes; put
//! into effect by [`crate::Applied`].
//!
//! Invariants: nothing here calls a driver. Only [`Settings::check`] makes a [`Checked`], so no value that the board
//! does not take reaches it, and no fan curve that lets the chip reach its slowdown temperature below full speed.

use crate::inventory::{Gpu, GpuUuid, PowerLimits, TemperatureLimits};
use serde::{Deserialize, Serialize};

/// Points of a fan curve; more than a curve needs, and few enough to read.
pub const FAN_POINTS_MAX: usize = 16;

/// Hotter than any chip survives.
const TEMPERATURE_C_MAX: u32 = 150;

/// As the owner writes it. What is left out stays as it is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// The most that the board may draw, milliwatts.
    pub power_limit_mw: Option<u32>,
    /// Between which clocks the multiprocessors run; equal ones lock them.
    pub locked_clocks_mhz: Option<ClockRange>,
    /// The same for the memory.
    pub locked_memory_clocks_mhz: Option<ClockRange>,
    /// Fan speed by temperature.
    pub fan_curve: Option<Vec<FanPoint>>,
}

/// Megahertz, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClockRange {
    /// The lowest.
    pub min: u32,
    /// The highest.
    pub max: u32,
}

/// At this temperature, this speed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FanPoint {
    /// Of the chip.
    pub temperature_c: u32,
    /// Of the fan's highest speed.
    pub percent: u32,
}

/// What one board takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Which board.
    pub gpu: GpuUuid,
    /// Its power limits.
    pub power: PowerLimits,
    /// The lowest and highest graphics clock; `None` where clocks cannot be locked.
    pub clocks_mhz: Option<ClockRange>,
    /// The lowest and highest memory clock.
    pub memory_clocks_mhz: Option<ClockRange>,
    /// How many fans it controls.
    pub fans: u32,
    /// The lowest and highest speed that they can be set to, percent.
    pub fan_percent: Option<(u32, u32)>,
    /// Its temperatures.
    pub temperatures: TemperatureLimits,
}

/// Settings that a board takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    gpu: GpuUuid,
    power_limit_mw: Option<u32>,
    locked_clocks_mhz: Option<ClockRange>,
    locked_memory_clocks_mhz: Option<ClockRange>,
    fan_curve: Option<FanCurve>,
}

/// Fan speed by temperature: straight lines between points, level before the first and after the last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FanCurve {
    points: Vec<FanPoint>,
}

/// A setting that a board does not take.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// The board does not say that it can.
    #[error("{gpu} does not take {setting}; leave it out")]
    NotSupported {
        /// The board.
        gpu: GpuUuid,
        /// The setting's name in the file.
        setting: &'static str,
    },
    /// Beyond the board's limits.
    #[error("{setting} = {value} is out of range for {gpu}: it takes {min} to {max}")]
    OutOfRange {
        /// The board.
        gpu: GpuUuid,
        /// The setting's name in the file.
        setting: &'static str,
        /// What was asked for.
        value: u32,
        /// The least.
        min: u32,
        /// The most.
        max: u32,
    },
    /// The range runs backwards.
    #[error("{setting} has min = {min} above max = {max}; swap them")]
    Backwards {
        /// The setting's name in the file.
        setting: &'static str,
        /// As written.
        min: u32,
        /// As written.
        max: u32,
    },
    /// Too few or too many points.
    #[error("fan_curve has {count} points; give 1 to {FAN_POINTS_MAX}")]
    PointCount {
        /// As written.
        count: usize,
    },
    /// Temperatures must rise from point to point, and speeds must not fall.
    #[error("fan_curve point {number} must be hotter than the one before it, and not slower")]
    NotRising {
        /// Counted from 1.
        number: usize,
    },
    /// The chip would get hot under a slow fan.
    #[error(
        "fan_curve gives {percent} % at {slowdown_c} °C, where {gpu} protects itself; it must give {full_percent} %"
    )]
    TooSlow {
        /// The board.
        gpu: GpuUuid,
        /// What the curve gives.
        percent: u32,
        /// At that temperature.
        slowdown_c: u32,
        /// What the fan can give.
        full_percent: u32,
    },
}

// === impl Settings ===

impl Settings {
    /// These settings for the board of `limits`. The first that it does not take, in the order of the fields, is the
    /// error.
    pub fn check(&self, limits: &Limits) -> Result<Checked, SettingsError> {
        if let Some(value) = self.power_limit_mw {
            let range = limits.power.min_mw.zip(limits.power.max_mw);
            limits.require("power_limit_mw", range, &[value])?;
        }
        limits.require_range("locked_clocks_mhz", limits.clocks_mhz, self.locked_clocks_mhz)?;
        limits.require_range("locked_memory_clocks_mhz", limits.memory_clocks_mhz, self.locked_memory_clocks_mhz)?;
        let fan_curve = self.fan_curve.as_ref().map(|points| FanCurve::check(points, limits)).transpose()?;
        Ok(Checked {
            gpu: limits.gpu.clone(),
            power_limit_mw: self.power_limit_mw,
            locked_clocks_mhz: self.locked_clocks_mhz,
            locked_memory_clocks_mhz: self.locked_memory_clocks_mhz,
            fan_curve,
        })
    }
}

// === impl Limits ===

impl Limits {
    /// What the inventory tells of a board's limits; clocks and fan speeds it does not tell.
    pub fn of(gpu: &Gpu) -> Self {
        Self {
            gpu: gpu.uuid.clone(),
            power: gpu.power,
            clocks_mhz: None,
            memory_clocks_mhz: None,
            fans: gpu.fans.unwrap_or(0),
            fan_percent: None,
            temperatures: gpu.temperature_limits,
        }
    }

    fn require(&self, setting: &'static str, range: Option<(u32, u32)>, values: &[u32]) -> Result<(), SettingsError> {
        let gpu = || self.gpu.clone();
        let (min, max) = range.ok_or_else(|| SettingsError::NotSupported { gpu: gpu(), setting })?;
        match values.iter().find(|value| !(min..=max).contains(*value)) {
            None => Ok(()),
            Some(value) => Err(SettingsError::OutOfRange { gpu: gpu(), setting, value: *value, min, max }),
        }
    }

    fn require_range(
        &self,
        setting: &'static str,
        range: Option<ClockRange>,
        asked: Option<ClockRange>,
    ) -> Result<(), SettingsError> {
        let Some(ClockRange { min, max }) = asked else { return Ok(()) };
        if min > max {
            return Err(SettingsError::Backwards { setting, min, max });
        }
        self.require(setting, range.map(|range| (range.min, range.max)), &[min, max])
    }
}

// === impl Checked ===

impl Checked {
    /// The board that takes them.
    pub fn gpu(&self) -> &GpuUuid {
        &self.gpu
    }

    /// Milliwatts.
    pub fn power_limit_mw(&self) -> Option<u32> {
        self.power_limit_mw
    }

    /// Of the multiprocessors.
    pub fn locked_clocks_mhz(&self) -> Option<ClockRange> {
        self.locked_clocks_mhz
    }

    /// Of the memory.
    pub fn locked_memory_clocks_mhz(&self) -> Option<ClockRange> {
        self.locked_memory_clocks_mhz
    }

    /// Of all fans.
    pub fn fan_curve(&self) -> Option<&FanCurve> {
        self.fan_curve.as_ref()
    }

    /// Whether anything is set at all.
    pub fn is_empty(&self) -> bool {
        self.power_limit_mw.is_none()
            && self.locked_clocks_mhz.is_none()
            && self.locked_memory_clocks_mhz.is_none()
            && self.fan_curve.is_none()
    }
}

// === impl FanCurve ===

impl FanCurve {
    fn check(points: &[FanPoint], limits: &Limits) -> Result<Self, SettingsError> {
        let setting = "fan_curve";
        if limits.fans == 0 {
            return Err(SettingsError::NotSupported { gpu: limits.gpu.clone(), setting });
        }
        if points.is_empty() || points.len() > FAN_POINTS_MAX {
            return Err(SettingsError::PointCount { count: points.len() });
        }
        let percents: Vec<u32> = points.iter().map(|point| point.percent).collect();
        limits.require(setting, limits.fan_percent, &percents)?;
        let temperatures: Vec<u32> = points.iter().map(|point| point.temperature_c).collect();
        limits.require(setting, Some((0, TEMPERATURE_C_MAX)), &temperatures)?;
        let rises =
            |pair: &[FanPoint]| matches!(pair, [a, b] if a.temperature_c < b.temperature_c && a.percent <= b.percent);
        if let Some(index) = points.windows(2).position(|pair| !rises(pair)) {
            return Err(SettingsError::NotRising { number: index.saturating_add(2) });
        }
        let curve = Self { points: points.to_vec() };
        if let (Some(slowdown_c), Some((_, full_percent))) = (limits.temperatures.slowdown_c, limits.fan_percent) {
            let percent = curve.percent_at(slowdown_c);
            if percent < full_percent {
                return Err(SettingsError::TooSlow { gpu: limits.gpu.clone(), percent, slowdown_c, full_percent });
            }
        }
        Ok(curve)
    }

    /// The speed at a temperature, percent, rounded up.
    pub fn percent_at(&self, temperature_c: u32) -> u32 {
        let after = self.points.iter().position(|point| point.temperature_c >= temperature_c);
        let (from, to) = match after {
            Some(0) => return self.points.first().map_or(100, |point| point.percent),
            Some(index) => (self.points[index - 1], self.points[index]),
            None => return self.points.last().map_or(100, |point| point.percent),
        };
        let rise = u64::from(to.percent - from.percent) * u64::from(temperature_c - from.temperature_c);
        let step = rise.div_ceil(u64::from(to.temperature_c - from.temperature_c));
        u32::try_from(step).map_or(to.percent, |step| from.percent.saturating_add(step))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn limits() -> Limits {
        let range = |min, max| Some(ClockRange { min, max });
        Limits {
            gpu: "GPU-1".parse().expect("a UUID"),
            power: PowerLimits { min_mw: Some(100_000), max_mw: Some(450_000), ..PowerLimits::default() },
            clocks_mhz: range(210, 3_105),
            memory_clocks_mhz: range(405, 10_501),
            fans: 2,
            fan_percent: Some((30, 100)),
            temperatures: TemperatureLimits { slowdown_c: Some(90), ..TemperatureLimits::default() },
        }
    }

    fn curve(points: &[(u32, u32)]) -> Settings {
        let points = points.iter().map(|&(temperature_c, percent)| FanPoint { temperature_c, percent }).collect();
        Settings { fan_curve: Some(points), ..Settings::default() }
    }

    #[track_caller]
    fn refused(settings: &Settings, limits: &Limits, expected: &str) {
        let error = settings.check(limits).expect_err("it is refused");
        assert_eq!(error.to_string(), expected);
    }

    fn power(value: u32) -> Settings {
        Settings { power_limit_mw: Some(value), ..Settings::default() }
    }

    fn clocks(min: u32, max: u32) -> Settings {
        Settings { locked_clocks_mhz: Some(ClockRange { min, max }), ..Settings::default() }
    }

    #[test]
    fn what_the_board_takes_passes_as_it_is() {
        let checked = power(100_000).check(&limits()).expect("the lowest passes");
        assert_eq!(checked.power_limit_mw(), Some(100_000));
        let checked = clocks(1_500, 1_500).check(&limits()).expect("a locked clock passes");
        assert_eq!(checked.locked_clocks_mhz(), Some(ClockRange { min: 1_500, max: 1_500 }));
        assert!(Settings::default().check(&limits()).expect("nothing passes").is_empty());
    }

    #[test]
    fn what_the_board_does_not_take_is_refused_by_name() {
        let range = "is out of range for GPU-1: it takes";
        refused(&power(99_999), &limits(), &format!("power_limit_mw = 99999 {range} 100000 to 450000"));
        refused(&power(450_001), &limits(), &format!("power_limit_mw = 450001 {range} 100000 to 450000"));
        refused(&clocks(0, 1_000), &limits(), &format!("locked_clocks_mhz = 0 {range} 210 to 3105"));
        refused(&clocks(1_000, 9_000), &limits(), &format!("locked_clocks_mhz = 9000 {range} 210 to 3105"));
        refused(&clocks(2, 1), &limits(), "locked_clocks_mhz has min = 2 above max = 1; swap them");
        let mute = Limits { power: PowerLimits::default(), fans: 0, ..limits() };
        refused(&power(1), &mute, "GPU-1 does not take power_limit_mw; leave it out");
        refused(&curve(&[(50, 100)]), &mute, "GPU-1 does not take fan_curve; leave it out");
    }

    #[test]
    fn a_fan_curve_must_rise_and_cool() {
        refused(&curve(&[]), &limits(), "fan_curve has 0 points; give 1 to 16");
        refused(&curve(&[(50, 100); 17]), &limits(), "fan_curve has 17 points; give 1 to 16");
        let rising = "must be hotter than the one before it, and not slower";
        refused(&curve(&[(50, 40), (50, 50)]), &limits(), &format!("fan_curve point 2 {rising}"));
        refused(&curve(&[(50, 40), (60, 39)]), &limits(), &format!("fan_curve point 2 {rising}"));
        refused(&curve(&[(50, 20)]), &limits(), "fan_curve = 20 is out of range for GPU-1: it takes 30 to 100");
        refused(&curve(&[(151, 100)]), &limits(), "fan_curve = 151 is out of range for GPU-1: it takes 0 to 150");
        refused(
            &curve(&[(40, 30), (100, 90)]),
            &limits(),
            "fan_curve gives 80 % at 90 °C, where GPU-1 protects itself; it must give 100 %",
        );
    }

    #[test]
    fn a_fan_follows_straight_lines() {
        let checked = curve(&[(40, 30), (60, 50), (80, 100)]).check(&limits()).expect("it passes");
        let curve = checked.fan_curve().expect("there is one");
        let check = |temperature_c, percent| assert_eq!(curve.percent_at(temperature_c), percent, "{temperature_c} °C");
        check(0, 30);
        check(40, 30);
        check(41, 31);
        check(50, 40);
        check(60, 50);
        check(61, 53);
        check(80, 100);
        check(200, 100);
    }

    #[test]
    fn an_unknown_setting_is_refused() {
        let parse = |text: &str| serde_json::from_str::<Settings>(text);
        assert!(parse(r#"{"power_limit_mw": 1}"#).is_ok());
        assert!(parse(r#"{"power_limit": 1}"#).is_err());
        assert!(parse(r#"{"locked_clocks_mhz": {"min": 1}}"#).is_err());
    }

    proptest! {
        #[test]
        fn a_curve_that_passes_never_slows_down_with_heat(
            points in proptest::collection::vec((0_u32..160, 0_u32..110), 0..18),
            colder in 0_u32..200,
            hotter in 0_u32..200,
        ) {
            let mut points = points;
            points.sort_unstable();
            if let Ok(checked) = curve(&points).check(&limits()) {
                let curve = checked.fan_curve().expect("there is one");
                let (colder, hotter) = (colder.min(hotter), colder.max(hotter));
                prop_assert!(curve.percent_at(colder) <= curve.percent_at(hotter));
                prop_assert!((30..=100).contains(&curve.percent_at(colder)));
                prop_assert_eq!(curve.percent_at(90), 100);
            }
        }
    }
}
