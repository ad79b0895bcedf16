#include "launcher/run.h"

#include <signal.h>
#include <sys/resource.h>

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <filesystem>
#include <iterator>
#include <set>

#include <fmt/ranges.h>

#include <nlohmann/json.hpp>

#include "base/log.h"
#include "inspect/inspect.h"
#include "launcher/models.h"
#include "launcher/mount_namespace.h"
#include "launcher/pci_functions.h"
#include "launcher/program.h"
#include "launcher/supervisor.h"

namespace uvfio::launcher {
namespace {

// One more than the highest group of the machine, so that ours can stand beside them.
unsigned first_free_group() {
  unsigned first = 0;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator("/sys/kernel/iommu_groups", error)) {
    const std::string name = entry.path().filename();
    unsigned number = 0;
    const auto parsed = std::from_chars(name.data(), name.data() + name.size(), number);
    if (parsed.ec == std::errc() && parsed.ptr == name.data() + name.size()) {
      first = std::max(first, number + 1);
    }
  }
  return first;
}

using Environment = Program::Environment;

// Where the program finds its devices. The names are documented in docs/uvfio.1.
Environment environment_for(const std::vector<std::shared_ptr<mdev::Device>>& devices) {
  Environment environment;
  for (std::size_t i = 0; i < devices.size(); ++i) {
    const auto& device = *devices[i];
    const std::string suffix = "_" + std::to_string(i);
    if (i == 0) environment.emplace_back("UVFIO_MDEV", device.name());
    environment.emplace_back("UVFIO_MDEV" + suffix, device.name());
    environment.emplace_back("UVFIO_GROUP" + suffix, device.vfio_device()->group().node_name());
    environment.emplace_back("UVFIO_SYSFS" + suffix, "/sys/bus/mdev/devices/" + device.name());
    spdlog::info("{} {} is /dev/vfio/{}", device.parent().type_id(device.type()), device.name(),
                 device.vfio_device()->group().node_name());
  }
  return environment;
}

// The functions' numbers follow those of `mdevs` mediated devices.
Environment environment_for(const std::vector<std::shared_ptr<pci::Device>>& devices,
                            std::size_t mdevs) {
  Environment environment;
  for (std::size_t i = 0; i < devices.size(); ++i) {
    const auto& device = *devices[i];
    const std::string suffix = "_" + std::to_string(mdevs + i);
    if (i == 0) environment.emplace_back("UVFIO_PCI", device.name());
    environment.emplace_back("UVFIO_PCI" + suffix, device.name());
    environment.emplace_back("UVFIO_GROUP" + suffix, std::to_string(device.iommu_group()->id()));
    environment.emplace_back("UVFIO_SYSFS" + suffix, "/sys/bus/pci/devices/" + device.name());
  }
  return environment;
}

// Every open file of the program is one of ours as well. The program keeps its own limit.
void raise_file_limit() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
}

// /sys/module/vfio_iommu_type1/parameters, as far as the kernel has them.
nodes::Server::Options::Attributes type1_attributes(Host& host) {
  nodes::Server::Options::Attributes attributes{.path = "sys/module/vfio_iommu_type1/parameters",
                                                .attributes = {}};
  for (const std::string_view name : iommu::type1::Parameters::kNames) {
    attributes.attributes.push_back({.name = std::string(name),
                                     .mode = 0644,
                                     .show = [&host, name]() -> Result<std::string> {
                                       auto text = host.type1_parameters().show(name);
                                       if (text) text->push_back('\n');
                                       return text;
                                     },
                                     .store =
                                         [&host, name](std::string_view text) {
                                           return host.type1_parameters().store(name, text);
                                         }});
  }
  return attributes;
}

std::string state_of(Host& host) {
  return inspect::to_json(host).dump(2, ' ', false, nlohmann::json::error_handler_t::replace) +
         "\n";
}

// A disk's file beyond RLIMIT_FSIZE is to fail and not to end us. Program does the same from its
// fork on, and gives the program what was there before.
class FileSizeSignalIgnored {
 public:
  FileSizeSignalIgnored() {
    struct sigaction ignore {};
    ignore.sa_handler = SIG_IGN;
    sigaction(SIGXFSZ, &ignore, &before_);
  }
  ~FileSizeSignalIgnored() { sigaction(SIGXFSZ, &before_, nullptr); }
  FileSizeSignalIgnored(const FileSizeSignalIgnored&) = delete;

 private:
  struct sigaction before_ {};
};

Outcome<int> try_run(const RunOptions& options) try {
  // What does not need the program's process comes first, so that mistakes are told at once.
  Host host(first_free_group());
  if (auto set = apply(options.topology.type1, host); !set) return std::unexpected(set.error());
  const auto models = add_models(host, options.models);
  if (!models) return std::unexpected(models.error());
  Environment environment;
  {
    const FileSizeSignalIgnored ignored;
    const auto devices = create_devices(host, options.topology);
    if (!devices) return std::unexpected(devices.error());
    environment = environment_for(*devices);
  }

  if (auto entered = enter_mount_namespace(); !entered) return std::unexpected(entered.error());
  auto program = Program::fork(options.command);
  if (!program) return std::unexpected(program.error());

  // After the fork: models may have threads.
  const auto functions = PciFunctions::create(host, options.topology);
  if (!functions) return std::unexpected(functions.error());
  std::ranges::move(environment_for((*functions)->devices(), options.topology.mdevs.size()),
                    std::back_inserter(environment));
  std::set<std::string> roots;
  for (const auto& device : (*functions)->devices()) {
    const std::string& path = device->sysfs_path();
    roots.insert(path.substr(0, path.rfind('/')));
  }

  raise_file_limit();
  nodes::Server::Options server_options{.passthrough = options.passthrough};
  for (const auto& entry : machine_entries(roots)) {
    server_options.guests.push_back(
        {.path = "sys/" + entry.path, .link_target = entry.link_target});
  }
  server_options.files.push_back(
      {.path = kStateFile, .contents = [&host] { return state_of(host); }});
  server_options.attributes.push_back(type1_attributes(host));
  const auto server = nodes::Server::create(host, server_options);
  if (!server) return std::unexpected(server.error());
  spdlog::info("mmap of device regions: {}", (*server)->passthrough() ? "yes" : "no");

  auto listener = program->go((*server)->root(), environment);
  if (!listener) return std::unexpected(listener.error());
  const Supervisor supervisor(**server, std::move(*listener));
  spdlog::info("running {} as process {}", options.command.front(), program->pid());
  return program->wait();
} catch (const std::exception& error) {
  return failure("{}; is a limit of this process reached (ulimit, memory)?", error.what());
}

}  // namespace

int run(const RunOptions& options) {
  const auto status = try_run(options);
  if (status) return *status;
  std::fprintf(stderr, "uvfio: %s\n", status.error().c_str());
  return kExitFailed;
}

}  // namespace uvfio::launcher
