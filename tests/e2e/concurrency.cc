// Several clients at once: none disturbs another, and none waits for another.
//
//   uvfio run --mdev mtty-1 ... (kClients times) -- concurrency [CASE ...]
//
// Every wait here is for an event that must come. What waits when it must not ends in the time
// limit of the test.

#include <linux/vfio.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "client.h"

namespace {

constexpr unsigned kClients = 8;
constexpr unsigned kRequests = 10'000;
constexpr std::size_t kPage = 4096;

std::string uuid_of(unsigned n) {
  const char* const uuid = std::getenv(("UVFIO_MDEV_" + std::to_string(n)).c_str());
  if (uuid == nullptr) {
    std::fprintf(stderr, "there is no device %u; run this with %u of type mtty-1\n", n, kClients);
    std::exit(2);
  }
  return uuid;
}

bool fail(const char* what) {
  std::fprintf(stderr, "%s: %s\n", what, std::strerror(errno));
  return false;
}

// Runs `body` in a process of its own. What it returns is whether it passed.
pid_t start(const std::function<bool()>& body) {
  const pid_t child = fork();
  if (child < 0) {
    fail("fork");
    std::exit(EXIT_FAILURE);
  }
  if (child == 0) {
    _exit(body() ? EXIT_SUCCESS : EXIT_FAILURE);
  }
  return child;
}

bool passed(pid_t child) {
  int status = 0;
  return waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

bool runs(pid_t child) { return waitpid(child, nullptr, WNOHANG) == 0; }

// Maps, loops bytes back, unmaps; with all the ways in which requests reach the server.
bool work(const client& client, unsigned requests, unsigned salt) {
  void* const memory =
      mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  bool good = memory != MAP_FAILED;
  for (unsigned i = 0; good && i < requests; ++i) {
    switch (i % 10) {
      case 0:
        good = map_dma(client.container, memory, i * kPage, kPage) &&
               unmap_dma(client.container, i * kPage, kPage);
        break;
      case 1:
        good = loop_back(client.device, static_cast<std::uint8_t>(i + salt));
        break;
      default:
        good = get_device_info(client.device);
        break;
    }
  }
  munmap(memory, kPage);
  return good;
}

// Each client has a device and a container of its own, and opens them again and again.
bool many_clients() {
  std::vector<pid_t> children;
  for (unsigned n = 0; n < kClients; ++n) {
    children.push_back(start([n] {
      for (int i = 0; i < 20; ++i) {
        client client;
        if (!open_client(&client, uuid_of(n).c_str()) || !work(client, 200, n)) {
          return false;
        }
        close_client(&client);
      }
      return true;
    }));
  }
  bool good = true;
  for (const pid_t child : children) {
    good = passed(child) && good;
  }
  return good;
}

// The threads of one client share container and device.
bool many_threads() {
  client client;
  if (!open_client(&client, uuid_of(0).c_str())) {
    return false;
  }
  std::array<bool, kClients> good{};
  std::vector<std::thread> threads;
  for (unsigned n = 0; n < kClients; ++n) {
    threads.emplace_back([&client, &good, n] {
      good[n] = true;
      for (unsigned i = 0; good[n] && i < 1'000; ++i) {
        good[n] = get_device_info(client.device);
      }
    });
  }
  bool all = true;
  for (unsigned n = 0; n < kClients; ++n) {
    threads[n].join();
    all = all && good[n];
  }
  close_client(&client);
  return all;
}

// GET_DEVICE_FD fails as soon as the removal has begun.
void wait_until_unlisted(int group, const std::string& uuid) {
  for (int fd = -1; (fd = ioctl(group, VFIO_GROUP_GET_DEVICE_FD, uuid.c_str())) >= 0;) {
    close(fd);
    sched_yield();
  }
}

pid_t start_remover(const std::string& uuid) {
  return start([&uuid] {
    close_range(STDERR_FILENO + 1, ~0U, 0);
    return remove_mdev(uuid.c_str()) == 0 || fail("remove");
  });
}

// Removers that wait for devices in use: the rest of the world goes on.
bool waiting_removers() {
  constexpr unsigned kDevices = 12;
  std::vector<std::string> uuids;
  std::vector<client> clients(kDevices);
  std::vector<pid_t> removers;
  for (unsigned n = 0; n < kDevices; ++n) {
    char digits[3];
    std::snprintf(digits, sizeof digits, "%02x", n);
    uuids.push_back(std::string("5f0e1c64-7c2a-4d1e-9b3f-0000000001") + digits);
  }
  for (unsigned n = 0; n < kDevices; ++n) {
    if (create_mdev("mtty-1", uuids[n].c_str()) != 0) {
      return fail("create");
    }
    if (!open_client(&clients[n], uuids[n].c_str())) {
      return false;
    }
    removers.push_back(start_remover(uuids[n]));
    wait_until_unlisted(clients[n].group, uuids[n]);
  }

  // Another client; one of the clients that are waited for; and sysfs.
  bool good = passed(start([] {
    client client;
    return open_client(&client, uuid_of(0).c_str()) && work(client, kRequests, 0);
  }));
  good = work(clients[0], kRequests, 1) && good;
  const char* const other = "5f0e1c64-7c2a-4d1e-9b3f-0000000002ff";
  good = good && (create_mdev("mtty-1", other) == 0 || fail("create"));
  good = good && use_device(other) && (remove_mdev(other) == 0 || fail("remove"));
  for (const pid_t remover : removers) {
    if (!runs(remover)) {
      std::fprintf(stderr, "a remover did not wait\n");
      good = false;
    }
  }

  // Each device that is closed lets its own remover go.
  for (unsigned n = 0; n < kDevices; ++n) {
    close_client(&clients[n]);
    good = passed(removers[n]) && !mdev_exists(uuids[n].c_str()) && good;
  }
  return good;
}

// Removers that are killed while they wait leave at once, and the device stays usable by its user.
bool killed_remover() {
  const std::string uuid = "5f0e1c64-7c2a-4d1e-9b3f-0000000003ff";
  client client;
  if (create_mdev("mtty-1", uuid.c_str()) != 0 || !open_client(&client, uuid.c_str())) {
    return fail("create");
  }
  const pid_t remover = start_remover(uuid);
  wait_until_unlisted(client.group, uuid);
  kill(remover, SIGKILL);
  bool good = work(client, 100, 0);
  close_client(&client);
  good = waitpid(remover, nullptr, 0) == remover && good;
  // Killed or not, the removal had begun.
  return good && (!mdev_exists(uuid.c_str()) || remove_mdev(uuid.c_str()) == 0);
}

constexpr struct {
  std::string_view name;
  bool (*run)();
} kCases[] = {
    {"many_clients", many_clients},
    {"many_threads", many_threads},
    {"waiting_removers", waiting_removers},
    {"killed_remover", killed_remover},
};

bool wanted(std::string_view name, const std::vector<std::string_view>& names) {
  return names.empty() || std::ranges::find(names, name) != names.end();
}

}  // namespace

int main(int argc, char** argv) {
  const std::vector<std::string_view> names(argv + 1, argv + argc);
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  bool good = true;
  for (const auto& test : kCases) {
    if (!wanted(test.name, names)) {
      continue;
    }
    const bool one = test.run();
    std::printf("%-7s %s\n", one ? "ok" : "FAILED", test.name.data());
    good = good && one;
  }
  return good ? EXIT_SUCCESS : EXIT_FAILURE;
}
