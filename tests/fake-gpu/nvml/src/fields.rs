//! Field values: what `nvmlDeviceGetFieldValues` knows. Numbers and types of the fields: `nvml.h`, `NVML_FI_*`.

use nvml_wrapper_sys::bindings::{field_id as id, nvmlFieldValue_t, nvmlValue_t};

use crate::code::Code;
use crate::machine::Device;

/// `NVML_VALUE_TYPE_UNSIGNED_INT`.
const UNSIGNED_INT: u32 = 1;
/// `NVML_VALUE_TYPE_UNSIGNED_LONG_LONG`.
const UNSIGNED_LONG_LONG: u32 = 3;

enum Value {
    U32(u32),
    U64(u64),
}

/// Answers one field in place. A field that the GPU does not have gets its own code; the call succeeds all the same.
pub(crate) fn answer(device: &Device<'_>, field: &mut nvmlFieldValue_t) {
    let (code, kind, value) = match value(device, field.fieldId) {
        None => (Code::NOT_SUPPORTED.0, UNSIGNED_INT, nvmlValue_t { ullVal: 0 }),
        Some(Value::U32(value)) => (0, UNSIGNED_INT, nvmlValue_t { uiVal: value }),
        Some(Value::U64(value)) => (0, UNSIGNED_LONG_LONG, nvmlValue_t { ullVal: value }),
    };
    field.nvmlReturn = code;
    field.valueType = kind;
    field.value = value;
    field.latencyUsec = 0;
}

fn value(device: &Device<'_>, field: u32) -> Option<Value> {
    let gpu = device.gpu;
    let ecc = gpu.ecc;
    Some(match field {
        id::NVML_FI_DEV_ECC_CURRENT | id::NVML_FI_DEV_ECC_PENDING => Value::U32(u32::from(ecc.is_some())),
        id::NVML_FI_DEV_ECC_SBE_VOL_TOTAL => Value::U64(ecc?.volatile[0]),
        id::NVML_FI_DEV_ECC_DBE_VOL_TOTAL => Value::U64(ecc?.volatile[1]),
        id::NVML_FI_DEV_ECC_SBE_AGG_TOTAL => Value::U64(ecc?.aggregate[0]),
        id::NVML_FI_DEV_ECC_DBE_AGG_TOTAL => Value::U64(ecc?.aggregate[1]),
        id::NVML_FI_DEV_RETIRED_SBE => Value::U32(ecc?.retired_pages[0]),
        id::NVML_FI_DEV_RETIRED_DBE => Value::U32(ecc?.retired_pages[1]),
        id::NVML_FI_DEV_MEMORY_TEMP if gpu.memory_temperature_c > 0 => Value::U32(gpu.memory_temperature_c),
        id::NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION => Value::U64(gpu.energy_mj),
        id::NVML_FI_DEV_PCIE_REPLAY_COUNTER => Value::U32(gpu.pcie_replays),
        id::NVML_FI_DEV_REMAPPED_COR => Value::U32(ecc?.remapped_rows[0]),
        id::NVML_FI_DEV_REMAPPED_UNC => Value::U32(ecc?.remapped_rows[1]),
        id::NVML_FI_DEV_REMAPPED_PENDING => Value::U32(u32::from(ecc?.remap_pending)),
        id::NVML_FI_DEV_REMAPPED_FAILURE => Value::U32(u32::from(ecc?.remap_failed)),
        id::NVML_FI_DEV_POWER_AVERAGE | id::NVML_FI_DEV_POWER_INSTANT => Value::U32(gpu.power_mw),
        id::NVML_FI_DEV_POWER_MIN_LIMIT => Value::U32(gpu.power_limit_min_mw),
        id::NVML_FI_DEV_POWER_MAX_LIMIT => Value::U32(gpu.power_limit_max_mw),
        id::NVML_FI_DEV_POWER_DEFAULT_LIMIT => Value::U32(gpu.power_limit_default_mw),
        id::NVML_FI_DEV_POWER_CURRENT_LIMIT | id::NVML_FI_DEV_POWER_REQUESTED_LIMIT => {
            Value::U32(device.power_limit_mw())
        }
        id::NVML_FI_DEV_GET_GPU_RECOVERY_ACTION => Value::U32(gpu.recovery_action),
        _ => return None,
    })
}
