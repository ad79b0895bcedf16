#include "tools/inspect_command.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sys/stat.h>

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <cstring>
#include <expected>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "inspect/inspect.h"
#include "launcher/run.h"

namespace uvfio::tools {
namespace {

template <typename T>
using Outcome = std::expected<T, std::string>;

// The state file as the process sees it.
std::string path_in(const std::string& pid) {
  return "/proc/" + pid + "/root/" + launcher::kStateFile;
}

Outcome<std::string> read_state(const std::string& pid) {
  std::ifstream file(path_in(pid));
  if (!file) {
    const int error = errno;
    if (error == ENOENT && std::filesystem::exists("/proc/" + pid)) {
      return std::unexpected(fmt::format("process {} does not run under `uvfio run`", pid));
    }
    if (error == ENOENT) return std::unexpected(fmt::format("there is no process {}", pid));
    return std::unexpected(fmt::format(
        "cannot look into process {}: {}; it takes root, or the user who runs the server", pid,
        strerror(error)));
  }
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

// One process for each server, which all processes of a mount namespace have in common.
std::vector<std::string> find_servers() {
  std::map<ino_t, int> servers;  // by mount namespace: its lowest process
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator("/proc", error)) {
    const std::string name = entry.path().filename();
    int pid = 0;
    const auto parsed = std::from_chars(name.data(), name.data() + name.size(), pid);
    if (parsed.ec != std::errc() || parsed.ptr != name.data() + name.size()) continue;
    struct stat ns {};
    if (stat(("/proc/" + name + "/ns/mnt").c_str(), &ns) != 0) continue;
    const auto known = servers.find(ns.st_ino);
    if (known != servers.end()) {
      known->second = std::min(known->second, pid);
    } else if (std::filesystem::exists(path_in(name), error)) {
      servers.emplace(ns.st_ino, pid);
    }
  }
  std::vector<std::string> pids;
  for (const auto& [ns, pid] : servers) pids.push_back(std::to_string(pid));
  std::ranges::sort(pids);
  return pids;
}

Outcome<std::string> find_and_read_state() {
  if (std::filesystem::exists(path_in("self"))) return read_state("self");
  const auto pids = find_servers();
  if (pids.empty())
    return std::unexpected("no `uvfio run` is running that this user may look into");
  if (pids.size() > 1) {
    return std::unexpected(
        fmt::format("several `uvfio run` are running; say which: {}", fmt::join(pids, ", ")));
  }
  return read_state(pids.front());
}

}  // namespace

int inspect_command(std::optional<int> pid, InspectFormat format) {
  const auto text = pid ? read_state(std::to_string(*pid)) : find_and_read_state();
  if (!text) {
    fmt::print(stderr, "uvfio: {}\n", text.error());
    return 1;
  }
  if (format == InspectFormat::json) {
    fmt::print("{}", *text);
    return 0;
  }
  try {
    const auto state = nlohmann::ordered_json::parse(*text);
    fmt::print("{}", format == InspectFormat::faults ? inspect::faults_to_text(state)
                                                     : inspect::to_text(state));
  } catch (const nlohmann::json::exception& error) {
    fmt::print(stderr, "uvfio: the server's state is not understood (another version?): {}\n",
               error.what());
    return 1;
  }
  return 0;
}

}  // namespace uvfio::tools
