#include "vfio_pci/device_name.h"

namespace uvfio::vfio_pci {

Result<bool> matches_device(std::string_view name, std::string_view text) {
  if (!text.starts_with(name)) return false;
  const std::string_view options = text.substr(name.size());
  if (options.empty()) return true;
  if (options.front() != ' ') return false;
  // No function here has SR-IOV, so that a token is as wrong as what is no token at all.
  if (options.find_first_not_of(' ') != std::string_view::npos) return fail(EINVAL);
  return true;
}

}  // namespace uvfio::vfio_pci
