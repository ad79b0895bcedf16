// Numbers as the kernel reads them from sysfs.
#pragma once

#include <string_view>

#include "uvfio/error.h"

namespace uvfio {

// kstrtoul(text, 0, ...): an optional '+', then hexadecimal after "0x", octal after "0", else
// decimal; one trailing newline is allowed. EINVAL: anything else. ERANGE: more than 64 bits.
[[nodiscard]] Result<unsigned long> parse_unsigned(std::string_view text);

}  // namespace uvfio
