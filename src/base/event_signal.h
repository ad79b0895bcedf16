// Signalling an eventfd as the kernel does for a device.
#pragma once

namespace uvfio {

// eventfd_signal(): adds 1 to the counter of `eventfd` and never waits, whatever its owner does to
// the counter or to the file's flags meanwhile. A counter that is full to the brim reads UINT64_MAX
// afterwards and polls POLLERR, as after an overflow in the kernel. False: this process cannot do
// it (no Linux AIO), and nothing has happened. Thread-safe.
[[nodiscard]] bool signal_without_waiting(int eventfd);

// Does once what signalling needs, so that the first signal is as quick as the others.
void prepare_to_signal();

}  // namespace uvfio
