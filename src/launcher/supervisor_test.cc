#include "launcher/supervisor.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/vfio.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <csignal>
#include <functional>
#include <mutex>
#include <thread>

#include "launcher/models.h"
#include "launcher/notify_filter.h"
#include "memory/process.h"

namespace uvfio::launcher {
namespace {

// Stands for the file system of nodes: a memfd for each file of ours, known by its inode.
class FakeServer final : public nodes::Server {
 public:
  const Fd& root() const override { return none_; }
  bool passthrough() const override { return false; }
  std::shared_ptr<const void> errand(std::function<bool()>) override { return nullptr; }
  nodes::OpenFile identify(const Fd& fd) override {
    struct stat status {};
    fstat(fd.get(), &status);
    const auto found = files_.find(status.st_ino);
    return found == files_.end() ? nodes::OpenFile() : found->second;
  }
  // The write end of a pipe: the read end tells when the last copy is gone.
  Result<Fd> open_device(std::shared_ptr<vfio::DeviceFile> file) override {
    const std::string name = file->device().name();
    file.reset();
    if (name == slow_) {
      opening_.signal();
      eventfd_t value = 0;
      eventfd_read(go_on_.get(), &value);
    }
    std::array<int, 2> ends{};
    if (pipe2(ends.data(), O_CLOEXEC) != 0) return fail(errno);
    const std::scoped_lock lock(mutex_);
    if (opened_ && !all_closed()) ++still_open_;
    opened_.reset(ends[0]);
    return Fd(ends[1]);
  }
  Result<Fd> open_stream(std::shared_ptr<vfio::MigrationStream>, bool readable) override {
    return Fd(open("/dev/null", (readable ? O_RDONLY : O_WRONLY) | O_CLOEXEC));
  }

  Fd add_file(nodes::OpenFile file) {
    Fd fd(memfd_create("file", MFD_CLOEXEC));
    struct stat status {};
    fstat(fd.get(), &status);
    files_[status.st_ino] = std::move(file);
    return fd;
  }
  // Has every copy of the latest device file been closed?
  [[nodiscard]] bool all_closed() const {
    pollfd state{.fd = opened_.get(), .events = 0, .revents = 0};
    return poll(&state, 1, 0) == 1 && (state.revents & POLLHUP) != 0;
  }
  void forget_files() { files_.clear(); }

  std::string slow_;  // opening this device takes until go_on_
  EventFd opening_ = EventFd::create().value();
  Fd go_on_{eventfd(0, EFD_CLOEXEC)};
  unsigned still_open_ = 0;  // device files that were open when the next was asked for

 private:
  std::mutex mutex_;  // guards the next, and still_open_ while there is a supervisor
  Fd opened_;         // read end of the latest device file
  Fd none_;
  std::map<ino_t, nodes::OpenFile> files_;
};

// A child with the filter. What its body returns names the check that failed.
class Client {
 public:
  explicit Client(const std::function<int()>& body) {
    std::array<int, 2> up{};
    std::array<int, 2> down{};
    if (pipe2(up.data(), O_CLOEXEC) != 0 || pipe2(down.data(), O_CLOEXEC) != 0) std::abort();
    pid_ = fork();
    if (pid_ == 0) {
      alarm(60);
      const auto listener = load_notify_filter();
      const int fd = listener ? listener->get() : -1;
      static_cast<void>(!write(up[1], &fd, sizeof fd));
      char go = 0;
      static_cast<void>(!read(down[0], &go, 1));
      close(fd);
      _exit(listener ? body() : 100);
    }
    int fd = -1;
    static_cast<void>(!read(up[0], &fd, sizeof fd));
    listener_ = memory::duplicate_from_thread(pid_, fd).value_or(Fd());
    static_cast<void>(!write(down[1], "g", 1));
    for (const int end : {up[0], up[1], down[0], down[1]}) close(end);
  }
  Fd take_listener() { return std::move(listener_); }
  void kill() const { ::kill(pid_, SIGKILL); }
  int wait() const {
    int status = 0;
    waitpid(pid_, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  }

 private:
  pid_t pid_ = -1;
  Fd listener_;
};

int get_device_fd(const Fd& group, const std::string& name) {
  return ioctl(group.get(), VFIO_GROUP_GET_DEVICE_FD, name.c_str());
}

class SupervisorTest : public ::testing::Test {
 protected:
  // A serial card whose group is open and has a container with an IOMMU.
  struct Card {
    std::shared_ptr<mdev::Device> device;
    std::shared_ptr<vfio::GroupFile> group;
    [[nodiscard]] const std::string& name() const { return device->name(); }
  };
  Card make_card() {
    const auto type = offered_types(host_).front();
    Card card{.device = host_.mdev().create(type.parent, *type.type, Uuid::random()).value(),
              .group = {}};
    card.group = card.device->vfio_device()->group().open().value();
    const auto container = host_.vfio().open_container();
    EXPECT_TRUE(card.group->set_container(container));
    EXPECT_TRUE(container->set_iommu(VFIO_TYPE1v2_IOMMU));
    return card;
  }

  Host host_;
  std::vector<std::unique_ptr<Model>> models_ = add_models(host_).value();
  FakeServer server_;
};

TEST_F(SupervisorTest, GivesTheClientItsDeviceDescriptor) {
  const Card card = make_card();
  const Fd group = server_.add_file(card.group);
  Client client([&] {
    const int fd = get_device_fd(group, card.name());
    if (fd < 0) return 1;
    if ((fcntl(fd, F_GETFD) & FD_CLOEXEC) == 0) return 2;
    if (write(fd, "x", 1) != 1) return 3;
    // The errnos of the core, and of the kernel for what is not ours.
    if (get_device_fd(group, "nothing") != -1 || errno != ENODEV) return 4;
    if (ioctl(group.get(), VFIO_GROUP_GET_DEVICE_FD, 1) != -1 || errno != EFAULT) return 5;
    if (get_device_fd(Fd(open("/dev/null", O_RDWR)), card.name()) != -1 || errno != ENOTTY) {
      return 6;
    }
    if (get_device_fd(Fd(), card.name()) != -1 || errno != EBADF) return 7;
    const rlimit none{.rlim_cur = static_cast<rlim_t>(fd) + 1, .rlim_max = 1024};
    setrlimit(RLIMIT_NOFILE, &none);
    while (open("/dev/null", O_RDWR) >= 0) {
    }
    if (get_device_fd(group, card.name()) != -1 || errno != EMFILE) return 8;
    return 0;
  });
  const Supervisor supervisor(server_, client.take_listener());
  EXPECT_EQ(client.wait(), 0) << "check number";
}

TEST_F(SupervisorTest, WhatTheClientClosesIsClosed) {
  const Card card = make_card();
  const Fd group = server_.add_file(card.group);
  Client client([&] {
    for (int i = 0; i < 500; ++i) {
      const int fd = get_device_fd(group, card.name());
      if (fd < 0) return 1;
      close(fd);
    }
    return 0;
  });
  const Supervisor supervisor(server_, client.take_listener());
  EXPECT_EQ(client.wait(), 0) << "check number";
  EXPECT_EQ(server_.still_open_, 0u) << "the client went on while the server had a copy";
}

TEST_F(SupervisorTest, ASlowOpenHoldsUpNobodyElse) {
  const Card slow = make_card();
  const Card fast = make_card();
  const Fd slow_group = server_.add_file(slow.group);
  const Fd fast_group = server_.add_file(fast.group);
  server_.slow_ = slow.name();
  Client client([&] {
    std::atomic<int> slow_fd = -2;
    std::thread thread([&] { slow_fd = get_device_fd(slow_group, slow.name()); });
    pollfd opening{.fd = server_.opening_.get(), .events = POLLIN, .revents = 0};
    poll(&opening, 1, -1);
    for (int i = 0; i < 10; ++i) {
      if (get_device_fd(fast_group, fast.name()) < 0) return 1;
    }
    if (slow_fd != -2) return 2;
    eventfd_write(server_.go_on_.get(), 1);
    thread.join();
    return slow_fd >= 0 ? 0 : 3;
  });
  const Supervisor supervisor(server_, client.take_listener());
  EXPECT_EQ(client.wait(), 0) << "check number";
}

TEST_F(SupervisorTest, AClientThatDiesHalfWayLeavesNothingOpen) {
  const Card card = make_card();
  const Fd group = server_.add_file(card.group);
  server_.slow_ = card.name();
  Client client([&] { return get_device_fd(group, card.name()); });
  {
    const Supervisor supervisor(server_, client.take_listener());
    pollfd opening{.fd = server_.opening_.get(), .events = POLLIN, .revents = 0};
    ASSERT_EQ(poll(&opening, 1, 10'000), 1);
    client.kill();
    EXPECT_EQ(client.wait(), -SIGKILL);
    eventfd_write(server_.go_on_.get(), 1);
  }
  EXPECT_TRUE(server_.all_closed());
}

TEST_F(SupervisorTest, GivesTheClientItsMigrationStream) {
  const Card card = make_card();
  const Fd device = server_.add_file(vfio::GroupFile::get_device(card.group, card.name()).value());
  struct SetState {
    std::uint32_t argsz;
    std::uint32_t flags;
    vfio_device_feature_mig_state state;
  };
  Client client([&] {
    SetState set{};
    set.argsz = sizeof set;
    set.flags = VFIO_DEVICE_FEATURE_SET | VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE;
    set.state = {.device_state = VFIO_DEVICE_STATE_STOP_COPY, .data_fd = -1};
    if (ioctl(device.get(), VFIO_DEVICE_FEATURE, &set) != 0) return 1;
    if (fcntl(set.state.data_fd, F_GETFD) != FD_CLOEXEC) return 2;
    // What returns no descriptor is left to the file itself: here a memfd, which knows no ioctl.
    set.flags = VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE;
    if (ioctl(device.get(), VFIO_DEVICE_FEATURE, &set) != -1 || errno != ENOTTY) return 3;
    if (ioctl(device.get(), VFIO_DEVICE_FEATURE, nullptr) != -1 || errno != ENOTTY) return 4;
    return 0;
  });
  const Supervisor supervisor(server_, client.take_listener());
  EXPECT_EQ(client.wait(), 0) << "check number";
  server_.forget_files();
}

}  // namespace
}  // namespace uvfio::launcher
