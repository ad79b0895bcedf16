// A sysfs attribute as data: parents, types and mediated devices carry lists of these.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "uvfio/error.h"

namespace uvfio {

// `show` returns the whole text; `store` gets one write. A missing one makes the operation fail
// with EIO, as in the kernel; `mode` should agree. Both may be called from any thread.
struct Attribute {
  std::string name;
  unsigned mode = 0444;
  std::function<Result<std::string>()> show;
  std::function<Status(std::string_view)> store;
};

// Attributes in a subdirectory of the device (`name` empty: in the device's own directory).
struct AttributeGroup {
  std::string name;
  std::vector<Attribute> attributes;
};

}  // namespace uvfio
