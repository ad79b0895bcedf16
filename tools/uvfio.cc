// The command line.

#include <fmt/format.h>
#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>

#include <CLI/CLI.hpp>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <optional>
#include <string>
#include <vector>

#include "launcher/models.h"
#include "launcher/pci_models.h"
#include "launcher/program.h"
#include "launcher/run.h"
#include "tools/inspect_command.h"

namespace {

using namespace uvfio;

constexpr const char* kFooter =
    "`uvfio run --help` shows how to run a program; the manual page is uvfio(1).";

constexpr const char* kRunFooter =
    R"(The program sees /dev and /sys as on the machine, with its own /dev/vfio, IOMMU groups, mediated devices
and PCI functions in them. They go when it ends, and so does what it has left running. Its environment says
where its devices are:
  UVFIO_MDEV        UUID of the first mediated device
  UVFIO_PCI         address of the first PCI function
  UVFIO_MDEV_<n>, UVFIO_PCI_<n>
                    UUID or address of device n, counted from 0: first mediated devices, then
                    functions, those of topology files before the others
  UVFIO_GROUP_<n>   name of its group's node: /dev/vfio/<name>
  UVFIO_SYSFS_<n>   its directory, /sys/bus/mdev/devices/<uuid> or /sys/bus/pci/devices/<address>

Exit status: the program's; 128+N if signal N ended it; 126 or 127 if it cannot be executed or found;
125 if uvfio itself fails.

Examples: a serial card and a look at it; two cards, one of a known UUID, for a VFIO program
  uvfio run --mdev mtty-1 -- sh -c 'ls /dev/vfio; ls $UVFIO_SYSFS_0/'
  uvfio run --mdev mtty-1 --mdev mtty-2:83b8f4f2-509f-382f-3c1e-e6bfe0fa1001 -- ./my_driver)";

// The usage line of `run` with the "--" that separates the program's options from ours.
class HelpFormatter final : public CLI::Formatter {
 public:
  std::string make_usage(const CLI::App* app, std::string name) const override {
    if (app->get_name() != "run") return Formatter::make_usage(app, std::move(name));
    return "Usage: uvfio run [OPTIONS] -- PROGRAM [ARG ...]\n";
  }
  std::string make_positionals(const CLI::App*) const override { return {}; }
};

// What CLI11 found wrong, as one sentence.
std::string describe(const CLI::App* app, const CLI::Error& error) {
  const bool in_run = app->got_subcommand("run");
  const char* remedy = "";
  if (in_run && error.get_exit_code() == static_cast<int>(CLI::ExitCodes::ExtrasError)) {
    remedy = " The program comes after --, and its arguments after it.";
  }
  return fmt::format("uvfio: {}.{} Try `uvfio {}--help`.\n", error.what(), remedy,
                     in_run ? "run " : "");
}

void set_up_logging(int verbosity) {
  // Standard output belongs to the program.
  spdlog::set_default_logger(spdlog::stderr_color_mt("uvfio"));
  spdlog::set_pattern("uvfio: %^%l%$: %v");
  spdlog::set_level(verbosity == 0   ? spdlog::level::warn
                    : verbosity == 1 ? spdlog::level::info
                                     : spdlog::level::debug);
}

int fail_with(const std::string& sentence) {
  fmt::print(stderr, "uvfio: {}\n", sentence);
  return launcher::kExitFailed;
}

// The status of a command that has printed all that it has to say.
int finish_output(int status) {
  if (std::fflush(stdout) == 0 && std::ferror(stdout) == 0) return status;
  return fail_with(std::string("cannot write the output: ") + strerror(errno));
}

int list_types() {
  Host host;
  const auto models = launcher::add_models(host);
  if (!models) return fail_with(models.error());
  fmt::print("{:<12} {:<14} {:>9}  {}\n", "TYPE", "API", "AVAILABLE", "NAME");
  for (const auto& offered : launcher::offered_types(host)) {
    fmt::print("{:<12} {:<14} {:>9}  {}\n", offered.id(), offered.parent->driver().device_api(),
               offered.parent->available_instances(*offered.type), offered.type->pretty_name);
  }
  fmt::print("\n{:<12} {:<26}  {}\n", "PCI MODEL", "KEY", "");
  for (const auto& model : launcher::pci_models()) {
    fmt::print("{:<12} {:<26}  {}\n", model.name, "", model.help);
    for (const auto& key : model.keys) fmt::print("{:<12} {:<26}  {}\n", "", key.name, key.help);
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("VFIO and VFIO mediated devices in user space.");
  app.name("uvfio");
  app.set_version_flag("--version", "uvfio " UVFIO_VERSION);
  app.require_subcommand(0, 1);
  app.formatter(std::make_shared<HelpFormatter>());
  app.failure_message(describe);
  app.footer(kFooter);
  int verbosity = 0;

  auto* run = app.add_subcommand("run", "Run a program with a private set of VFIO devices");
  std::vector<std::string> mdevs;
  std::vector<std::string> functions;
  std::vector<std::string> topologies;
  std::vector<std::string> type1_settings;
  bool no_passthrough = false;
  launcher::RunOptions options;
  run->add_option("--mdev", mdevs,
                  "Create a mediated device (repeatable); `uvfio types` lists the types")
      ->type_name("TYPE[:UUID]")
      ->allow_extra_args(false);
  run->add_option(
         "--pci", functions,
         "Plug in a PCI function and bind it to vfio-pci (repeatable); `uvfio types` lists "
         "the models and their keys")
      ->type_name("MODEL[,KEY=VALUE...][@ADDRESS]")
      ->allow_extra_args(false);
  run->add_option("--topology", topologies,
                  "Create the devices that a TOML file describes (repeatable)")
      ->type_name("FILE")
      ->allow_extra_args(false);
  run->add_option(
         "--type1", type1_settings,
         "Set a parameter of the type1 IOMMU backend (repeatable), such as dma_entry_limit=1000")
      ->type_name("NAME=VALUE")
      ->allow_extra_args(false);
  run->add_option(
         "--nvme-directory", options.models.nvme_directory,
         "Where mediated NVMe disks lie, and stay: UUID.img. Without it they go with their devices")
      ->check(CLI::ExistingDirectory);
  run->add_flag("--no-passthrough", no_passthrough, "Offer no mmap of device regions");
  run->add_flag("-v,--verbose", verbosity, "Say more on standard error (twice: much more)");
  run->add_option("PROGRAM", options.command)->required();
  run->footer(kRunFooter);

  auto* types = app.add_subcommand(
      "types", "List the types of mediated devices and the models of PCI functions");

  std::optional<int> pid;
  bool json = false;
  auto* inspect = app.add_subcommand("inspect", "Show the inside of a running server");
  inspect->add_option("PID", pid, "A process of the server, if there is more than one server");
  inspect->add_flag("--json", json, "As JSON");
  auto* faults = app.add_subcommand("faults", "Show what devices did wrong behind their IOMMU");
  faults->add_option("PID", pid, "A process of the server, if there is more than one server");

  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    const int status = app.exit(error);
    return status == 0 ? 0 : launcher::kExitFailed;
  }
  if (app.get_subcommands().empty()) {
    fmt::print(stderr, "{}", app.help());
    return launcher::kExitFailed;
  }
  set_up_logging(verbosity);
  if (types->parsed()) return finish_output(list_types());
  using tools::InspectFormat;
  if (inspect->parsed())
    return finish_output(
        tools::inspect_command(pid, json ? InspectFormat::json : InspectFormat::text));
  if (faults->parsed()) return finish_output(tools::inspect_command(pid, InspectFormat::faults));

  for (const auto& path : topologies) {
    auto topology = launcher::read_topology(path);
    if (!topology) return fail_with(topology.error());
    options.topology.append(std::move(*topology));
  }
  for (const auto& text : mdevs) {
    auto request = launcher::parse_mdev(text);
    if (!request) return fail_with(request.error());
    options.topology.mdevs.push_back(std::move(*request));
  }
  for (const auto& text : type1_settings) {
    auto setting = launcher::parse_type1_setting(text);
    if (!setting) return fail_with(setting.error());
    options.topology.type1.push_back(std::move(*setting));
  }
  for (const auto& text : functions) {
    auto request = launcher::parse_pci(text);
    if (!request) return fail_with(request.error());
    options.topology.functions.push_back(std::move(*request));
  }
  options.passthrough = !no_passthrough;
  return launcher::run(options);
}
