#include "launcher/pci_models.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <limits>
#include <ranges>
#include <vector>

#include "base/number.h"
#include "devices/edu/edu.h"
#include "devices/endpoint/endpoint.h"
#include "devices/ioat/ioat.h"
#include "devices/nvme/disk.h"

namespace uvfio::launcher {
namespace {

// The number that `key` says, or `otherwise`.
Outcome<std::uint64_t> number(const ModelKeys& keys, const std::string& key,
                              std::uint64_t otherwise) {
  const auto found = keys.find(key);
  if (found == keys.end()) return otherwise;
  const auto parsed = parse_unsigned(found->second);
  if (!parsed) return failure("{}={}: not a number", key, found->second);
  return *parsed;
}

Outcome<bool> yes_or_no(const ModelKeys& keys, const std::string& key) {
  const auto found = keys.find(key);
  if (found == keys.end() || found->second == "no" || found->second == "0") return false;
  if (found->second == "yes" || found->second == "1") return true;
  return failure("{}={}: neither yes nor no", key, found->second);
}

constexpr std::array kEduKeys{
    PciModel::Key{"dma_mask", "bits of an address that its DMA reaches (default 0xfffffff)"},
};
Outcome<std::unique_ptr<pci::Model>> make_edu(const ModelKeys& keys) {
  const auto mask = number(keys, "dma_mask", edu::kDefaultDmaMask);
  if (!mask) return std::unexpected(mask.error());
  return std::make_unique<edu::Edu>(*mask);
}

Outcome<std::unique_ptr<pci::Model>> make_endpoint(const ModelKeys&) {
  return std::make_unique<endpoint::Endpoint>();
}

constexpr std::array kIoatKeys{
    PciModel::Key{"faults", "memory that it cannot reach: drop (default) or report"},
};
Outcome<std::unique_ptr<pci::Model>> make_ioat(const ModelKeys& keys) {
  const auto faults = keys.find("faults");
  if (faults == keys.end() || faults->second == "drop")
    return std::make_unique<ioat::Ioat>(ioat::Faults::drop);
  if (faults->second == "report") return std::make_unique<ioat::Ioat>(ioat::Faults::report);
  return failure("faults={}: neither drop nor report", faults->second);
}

constexpr std::array kNvmeKeys{
    PciModel::Key{"file", "image file or block device; several, with : between: a namespace each"},
    PciModel::Key{"mappable", "yes: BAR 0 can be mapped, as SPDK needs it (default no)"},
    PciModel::Key{"lba_size", "512 or 4096 (default: as formatted, at first 512)"},
    PciModel::Key{"queues", "pairs of I/O queues (default 16)"},
    PciModel::Key{"serial", "serial number (default: made from the files' paths)"},
};
Outcome<std::unique_ptr<pci::Model>> make_nvme(const ModelKeys& keys) {
  nvme::DiskOptions options;
  const auto lba_size = number(keys, "lba_size", options.lba_size);
  const auto queues = number(keys, "queues", options.io_queues);
  const auto mappable = yes_or_no(keys, "mappable");
  if (!lba_size) return std::unexpected(lba_size.error());
  if (!queues) return std::unexpected(queues.error());
  if (!mappable) return std::unexpected(mappable.error());
  options.mappable = *mappable;
  constexpr std::uint64_t kMost = std::numeric_limits<unsigned>::max();
  options.lba_size = static_cast<unsigned>(std::min(*lba_size, kMost));
  options.io_queues = static_cast<unsigned>(std::min(*queues, kMost));
  if (const auto serial = keys.find("serial"); serial != keys.end())
    options.serial = serial->second;
  if (const auto file = keys.find("file"); file != keys.end()) {
    for (const auto part : std::views::split(file->second, ':')) {
      options.files.emplace_back(part.begin(), part.end());
    }
  }
  auto disk = nvme::Disk::create(options);
  if (!disk) return std::unexpected(disk.error());
  return std::move(*disk);
}

constexpr std::array kModels{
    PciModel{"edu", "QEMU's educational device", kEduKeys, make_edu},
    PciModel{"endpoint", "the test function of Linux's PCI endpoint framework", {}, make_endpoint},
    PciModel{"ioat", "Intel's I/OAT DMA engine", kIoatKeys, make_ioat},
    PciModel{"nvme", "an NVMe disk over files or block devices", kNvmeKeys, make_nvme},
};

std::string names_of(const auto& all) {
  std::vector<std::string_view> names;
  for (const auto& each : all) names.push_back(each.name);
  return fmt::format("{}", fmt::join(names, ", "));
}

}  // namespace

std::span<const PciModel> pci_models() { return kModels; }

const PciModel* find_pci_model(std::string_view name) {
  const auto* const model = std::ranges::find(kModels, name, &PciModel::name);
  return model == kModels.end() ? nullptr : model;
}

std::string unknown_key(const PciModel& model, std::string_view key) {
  std::vector<std::string_view> known;
  for (const auto& each : model.keys) known.push_back(each.name);
  std::ranges::copy(kFunctionKeys, std::back_inserter(known));
  return fmt::format("{} has no key \"{}\"; known are {}", model.name, key, fmt::join(known, ", "));
}

Outcome<std::unique_ptr<pci::Model>> make_pci_model(std::string_view name, const ModelKeys& keys) {
  const PciModel* const model = find_pci_model(name);
  if (model == nullptr) {
    return failure("there is no PCI model \"{}\"; known are {}{}", name, names_of(kModels),
                   name.contains('@') ? " (an address comes last, after all keys)" : "");
  }
  for (const auto& [key, value] : keys) {
    if (!model->takes(key)) return failure("{}", unknown_key(*model, key));
  }
  auto made = model->make(keys);
  if (!made) return failure("{}: {}", name, made.error());
  return made;
}

}  // namespace uvfio::launcher
