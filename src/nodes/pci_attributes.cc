#include "nodes/pci_attributes.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <fstream>
#include <string>

#include "base/number.h"
#include "nodes/sysfs_builder.h"
#include "pci/function.h"
#include "pci/layout.h"

namespace uvfio::nodes {
namespace {

// Attributes outlive their device where a client holds one open: they must not keep it.
using Weak = std::weak_ptr<pci::Device>;
using Show = std::string (*)(pci::Device&);
using Store = Status (*)(pci::Device&, std::string_view);

struct Entry {
  const char* name;
  unsigned mode;
  Show show;
  Store store;
};

Attribute attribute_of(const Entry& entry, const Weak& weak) {
  Attribute attribute{.name = entry.name, .mode = entry.mode, .show = {}, .store = {}};
  if (entry.show != nullptr) {
    attribute.show = [weak, show = entry.show]() -> Result<std::string> {
      const auto device = weak.lock();
      if (!device) return fail(ENODEV);
      return show(*device);
    };
  }
  if (entry.store != nullptr) {
    attribute.store = [weak, store = entry.store](std::string_view text) -> Status {
      const auto device = weak.lock();
      return device ? store(*device, text) : fail(ENODEV);
    };
  }
  return attribute;
}

// The machine's CPUs that are online, as the list that sysfs has: "0-3,6".
std::string cpu_list() {
  std::ifstream file("/sys/devices/system/cpu/online");
  std::string list;
  std::getline(file, list);
  return list.empty() ? "0" : list;
}

// A list as a mask: words of 32 bits, the highest first.
std::string cpu_mask(const std::string& list) {
  std::vector<std::uint32_t> words(1);
  const char* at = list.c_str();
  while (*at >= '0' && *at <= '9') {
    char* end = nullptr;
    const unsigned long first = std::strtoul(at, &end, 10);
    unsigned long last = first;
    if (*end == '-') last = std::strtoul(end + 1, &end, 10);
    constexpr unsigned long kMostCpus = 1 << 16;
    for (unsigned long cpu = first; cpu <= std::min(last, kMostCpus); ++cpu) {
      if (cpu / 32 >= words.size()) words.resize(cpu / 32 + 1);
      words[cpu / 32] |= 1u << cpu % 32;
    }
    at = *end == ',' ? end + 1 : end;
  }
  std::string text = fmt::format("{:x}", words.back());
  for (std::size_t i = words.size() - 1; i-- > 0;) text += fmt::format(",{:08x}", words[i]);
  return text;
}

std::string modalias(const pci::Device& device) {
  const auto& it = device.function().description();
  return fmt::format("pci:v{:08X}d{:08X}sv{:08X}sd{:08X}bc{:02X}sc{:02X}i{:02X}\n", it.vendor_id,
                     it.device_id, it.subsystem_vendor_id, it.subsystem_id, it.class_code >> 16,
                     it.class_code >> 8 & 0xff, it.class_code & 0xff);
}

std::string uevent_of(const pci::Device& device) {
  const auto& it = device.function().description();
  const pci::Driver* const driver = device.driver();
  return (driver == nullptr ? "" : "DRIVER=" + driver->name() + "\n") +
         fmt::format(
             "PCI_CLASS={:04X}\nPCI_ID={:04X}:{:04X}\nPCI_SUBSYS_ID={:04X}:{:04X}\n"
             "PCI_SLOT_NAME={}\nMODALIAS={}",
             it.class_code, it.vendor_id, it.device_id, it.subsystem_vendor_id, it.subsystem_id,
             device.name(), modalias(device));
}

// The first 13 resources of a function without a bridge's windows: BARs, ROM, and those of SR-IOV.
std::string resource(const pci::Device& device) {
  constexpr std::size_t kLines = 13;
  std::string text;
  for (std::size_t i = 0; i < kLines; ++i) {
    const auto& all = device.resources();
    const pci::Resource each = i < all.size() ? all[i] : pci::Resource{};
    text += fmt::format("0x{:016x} 0x{:016x} 0x{:016x}\n", each.first, each.last, each.flags);
  }
  return text;
}

std::string reset_method(const pci::Device& device) {
  return fmt::format("{}\n", fmt::join(device.reset_methods(), " "));
}

// Writes of a number: `act` for what is not 0.
template <typename Act>
Status if_set(std::string_view text, Act&& act) {
  const auto number = parse_unsigned(text);
  if (!number) return fail(EINVAL);
  return *number == 0 ? Status() : act();
}

std::uint32_t config(pci::Device& device, pci::ConfigRegister reg, std::uint8_t width) {
  return device.function().config_get(offset_of(reg), width);
}

constexpr std::array kEntries{
    Entry{"vendor", 0444,
          [](pci::Device& device) {
            return fmt::format("0x{:04x}\n", device.function().description().vendor_id);
          },
          nullptr},
    Entry{"device", 0444,
          [](pci::Device& device) {
            return fmt::format("0x{:04x}\n", device.function().description().device_id);
          },
          nullptr},
    Entry{"subsystem_vendor", 0444,
          [](pci::Device& device) {
            return fmt::format("0x{:04x}\n", device.function().description().subsystem_vendor_id);
          },
          nullptr},
    Entry{"subsystem_device", 0444,
          [](pci::Device& device) {
            return fmt::format("0x{:04x}\n", device.function().description().subsystem_id);
          },
          nullptr},
    Entry{"revision", 0444,
          [](pci::Device& device) {
            return fmt::format("0x{:02x}\n", device.function().description().revision_id);
          },
          nullptr},
    Entry{"class", 0444,
          [](pci::Device& device) {
            return fmt::format("0x{:06x}\n", device.function().description().class_code);
          },
          nullptr},
    Entry{"irq", 0444,
          [](pci::Device& device) {
            return fmt::format("{}\n", config(device, pci::ConfigRegister::interrupt_line, 1));
          },
          nullptr},
    Entry{"resource", 0444, [](pci::Device& device) { return resource(device); }, nullptr},
    Entry{"modalias", 0444, [](pci::Device& device) { return modalias(device); }, nullptr},
    Entry{"uevent", 0644, [](pci::Device& device) { return uevent_of(device); },
          [](pci::Device&, std::string_view text) { return store_uevent(text); }},
    Entry{"numa_node", 0444, [](pci::Device&) { return std::string("-1\n"); }, nullptr},
    Entry{"local_cpulist", 0444, [](pci::Device&) { return cpu_list() + "\n"; }, nullptr},
    Entry{"local_cpus", 0444, [](pci::Device&) { return cpu_mask(cpu_list()) + "\n"; }, nullptr},
    Entry{"power_state", 0444,
          [](pci::Device& device) {
            return std::string(device.function().power_state() == 0 ? "D0\n" : "D3hot\n");
          },
          nullptr},
    Entry{"enable", 0644,
          [](pci::Device& device) { return fmt::format("{}\n", device.enable_count()); },
          [](pci::Device& device, std::string_view text) -> Status {
            const auto number = parse_unsigned(text);
            return number ? device.store_enable(*number != 0) : fail(EINVAL);
          }},
    Entry{"driver_override", 0644,
          [](pci::Device& device) { return device.driver_override().value_or("(null)") + "\n"; },
          [](pci::Device& device, std::string_view text) {
            return device.set_driver_override(text);
          }},
};

// There only if the function can be reset.
constexpr std::array kResetEntries{
    Entry{"reset", 0200, nullptr,
          [](pci::Device& device, std::string_view text) -> Status {
            const auto number = parse_unsigned(text);
            return number && *number == 1 ? device.reset() : fail(EINVAL);
          }},
    Entry{"reset_method", 0444, [](pci::Device& device) { return reset_method(device); }, nullptr},
};

constexpr std::array kSlowEntries{
    Entry{"remove", 0220, nullptr,
          [](pci::Device& device, std::string_view text) {
            return if_set(
                text, [&]() -> Status { return device.bus().remove(device.shared_from_this()); });
          }},
    Entry{"rescan", 0220, nullptr,
          [](pci::Device& device, std::string_view text) {
            return if_set(text, [&]() -> Status {
              device.bus().rescan();
              return {};
            });
          }},
};

// One open of `config`.
class OpenConfig final : public OpenNode {
 public:
  explicit OpenConfig(Weak device) : device_(std::move(device)) {}

  Result<std::size_t> read(std::uint64_t position, std::span<std::byte> data) override {
    const auto device = find();
    if (!device) return fail(ENODEV);
    auto& function = device->function();
    if (position >= function.config_size()) return 0u;
    data = data.first(std::min<std::size_t>(data.size(), function.config_size() - position));
    if (auto done = function.config_read(position, data); !done) {
      return std::unexpected(done.error());
    }
    return data.size();
  }
  Result<std::size_t> write(std::uint64_t position, std::span<const std::byte> data) override {
    const auto device = find();
    if (!device) return fail(ENODEV);
    auto& function = device->function();
    if (position >= function.config_size()) return 0u;
    data = data.first(std::min<std::size_t>(data.size(), function.config_size() - position));
    if (auto done = function.config_write(position, data); !done) {
      return std::unexpected(done.error());
    }
    return data.size();
  }

 private:
  // Nothing once it has been removed, even if a rescan has found the function again.
  [[nodiscard]] std::shared_ptr<pci::Device> find() const {
    auto device = device_.lock();
    if (device && device->bus().find(device->address()) != device) device.reset();
    return device;
  }

  const Weak device_;
};

}  // namespace

std::vector<Attribute> pci_attributes(const std::shared_ptr<pci::Device>& device) {
  std::vector<Attribute> all;
  for (const Entry& entry : kEntries) all.push_back(attribute_of(entry, device));
  if (!device->reset_methods().empty()) {
    for (const Entry& entry : kResetEntries) all.push_back(attribute_of(entry, device));
  }
  if (device->function().config_map().pcie != 0) {
    for (const char* which : {"current", "max"}) {
      all.push_back(constant(fmt::format("{}_link_speed", which), "2.5 GT/s PCIe\n"));
      all.push_back(constant(fmt::format("{}_link_width", which), "1\n"));
    }
  }
  return all;
}

std::vector<Attribute> slow_pci_attributes(const std::shared_ptr<pci::Device>& device) {
  std::vector<Attribute> all;
  for (const Entry& entry : kSlowEntries) all.push_back(attribute_of(entry, device));
  return all;
}

DeviceNode::Traits config_traits(const pci::Device& device) {
  return {.mode = 0644, .size = device.function().config_size()};
}

DeviceNode::Opener config_opener(const std::shared_ptr<pci::Device>& device) {
  return [weak = Weak(device)](pid_t, int) -> Result<std::shared_ptr<OpenNode>> {
    return std::make_shared<OpenConfig>(weak);
  };
}

}  // namespace uvfio::nodes
