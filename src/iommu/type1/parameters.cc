#include "uvfio/type1_parameters.h"

#include "base/number.h"

namespace uvfio::iommu::type1 {
namespace {

constexpr std::string_view kPerMapping = "mapping";
constexpr std::string_view kPerAddressSpace = "address-space";

// kstrtobool.
Result<bool> parse_bool(std::string_view text) {
  if (text.empty()) return fail(EINVAL);
  switch (text[0]) {
    case 'y':
    case 'Y':
    case 't':
    case 'T':
    case '1':
      return true;
    case 'n':
    case 'N':
    case 'f':
    case 'F':
    case '0':
      return false;
    case 'o':
    case 'O':
      if (text.size() > 1 && (text[1] == 'n' || text[1] == 'N')) return true;
      if (text.size() > 1 && (text[1] == 'f' || text[1] == 'F')) return false;
      return fail(EINVAL);
    default:
      return fail(EINVAL);
  }
}

std::string text_of(bool value) { return value ? "Y" : "N"; }

}  // namespace

Result<std::string> Parameters::show(std::string_view name) const {
  if (name == "accounting") {
    return std::string(accounting == Accounting::per_mapping ? kPerMapping : kPerAddressSpace);
  }
  if (name == "allow_unsafe_interrupts") return text_of(allow_unsafe_interrupts);
  if (name == "disable_hugepages") return text_of(disable_hugepages);
  if (name == "dma_entry_limit") return std::to_string(dma_entry_limit);
  return fail(ENOENT);
}

Status Parameters::store(std::string_view name, std::string_view text) {
  if (text.ends_with('\n')) text.remove_suffix(1);
  if (name == "accounting") {
    if (text != kPerMapping && text != kPerAddressSpace) return fail(EINVAL);
    accounting = text == kPerMapping ? Accounting::per_mapping : Accounting::per_address_space;
    return {};
  }
  if (name == "dma_entry_limit") {
    const auto number = parse_unsigned(text);
    if (!number) return std::unexpected(number.error());
    if (*number > UINT32_MAX) return fail(ERANGE);
    dma_entry_limit = static_cast<std::uint32_t>(*number);
    return {};
  }
  const bool unsafe = name == "allow_unsafe_interrupts";
  if (!unsafe && name != "disable_hugepages") return fail(ENOENT);
  const auto flag = parse_bool(text);
  if (!flag) return std::unexpected(flag.error());
  (unsafe ? allow_unsafe_interrupts : disable_hugepages) = *flag;
  return {};
}

}  // namespace uvfio::iommu::type1
