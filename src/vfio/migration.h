// The migration state machine, which all devices share (vfio_mig_get_next_state). States are
// VFIO_DEVICE_STATE_*.
#pragma once

#include <cstdint>
#include <memory>

#include "uvfio/device.h"

namespace uvfio::vfio {

// The next arc on the way from `current` to `wanted` for a device with the VFIO_MIGRATION_*
// `flags`. States that the flags exclude are passed over. EINVAL: either state is unknown or
// excluded, or there is no way (out of ERROR; from STOP_COPY to a PRE_COPY state).
[[nodiscard]] Result<std::uint32_t> next_state(std::uint32_t flags, std::uint32_t current,
                                               std::uint32_t wanted);

// VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE: walks from the device's state to `wanted`. Returns the
// stream that the last step opened, or nullptr. On failure the device stays in the last state that
// it reached.
[[nodiscard]] Result<std::shared_ptr<MigrationStream>> set_state(Migration& migration,
                                                                 std::uint32_t wanted);

// The device's state when no walk is on its way.
[[nodiscard]] std::uint32_t get_state(Migration& migration);

}  // namespace uvfio::vfio
