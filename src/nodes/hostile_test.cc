// Clients that try to keep others from being served.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/userfaultfd.h>
#include <linux/vfio.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <chrono>
#include <filesystem>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#define FUSE_USE_VERSION 312
#include <fuse3/fuse_lowlevel.h>

#include "memory/process.h"
#include "nodes/fuse_server.h"
#include "nodes/mount.h"
#include "nodes/server.h"
#include "uvfio/host.h"

namespace uvfio::nodes {
namespace {

using namespace std::chrono_literals;

constexpr unsigned kEcho = _IO(';', 200);
constexpr unsigned kCopy = _IO(';', 201);

// Copies an argument as all ioctls do.
class Copier : public OpenNode {
 public:
  explicit Copier(std::atomic<int>& copying) : copying_(copying) {}
  Result<int> ioctl(pid_t thread, std::uint32_t command, std::uint64_t arg) override {
    if (command == kEcho) return static_cast<int>(arg);
    ++copying_;
    std::array<std::byte, 8> data{};
    const Status copied = memory::copy_from_thread(thread, arg, data);
    --copying_;
    return copied ? Result<int>(0) : std::unexpected(copied.error());
  }

 private:
  std::atomic<int>& copying_;
};

// A server that is killed takes its connections along only if nobody else has them.
void close_connections() {
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    std::error_code error;
    if (std::filesystem::read_symlink(entry, error) == "/dev/fuse") {
      close(std::stoi(entry.path().filename()));
    }
  }
}

// A child process that runs `body` and exits with its result. Killed, it says so.
pid_t start_process(const std::function<int()>& body) {
  const pid_t child = fork();
  if (child == 0) {
    close_connections();
    alarm(20);  // whatever hangs is an error, not the end of the tests
    _exit(body());
  }
  return child;
}
int result_of(pid_t process) {
  int status = -1;
  EXPECT_EQ(waitpid(process, &status, 0), process);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

// Pages whose faults wait until `fill`.
class WatchedPage {
 public:
  WatchedPage() : fd_(static_cast<int>(syscall(SYS_userfaultfd, O_CLOEXEC))) {
    uffdio_api api{.api = UFFD_API, .features = 0, .ioctls = 0};
    page_ = mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    uffdio_register watch{.range = range(), .mode = UFFDIO_REGISTER_MODE_MISSING, .ioctls = 0};
    works_ = fd_ && ioctl(fd_.get(), UFFDIO_API, &api) == 0 &&
             ioctl(fd_.get(), UFFDIO_REGISTER, &watch) == 0;
  }
  [[nodiscard]] bool works() const { return works_; }
  [[nodiscard]] void* page() const { return page_; }
  void fill() {
    uffdio_zeropage zero{.range = range(), .mode = 0, .zeropage = 0};
    ioctl(fd_.get(), UFFDIO_ZEROPAGE, &zero);
  }

 private:
  [[nodiscard]] uffdio_range range() const {
    return {.start = reinterpret_cast<std::uint64_t>(page_), .len = 4096};
  }
  Fd fd_;
  void* page_;
  bool works_ = false;
};

TEST(HostileClient, ArgumentsThatNeverComeLeaveWorkersForOthers) {
#ifdef __SANITIZE_THREAD__
  GTEST_SKIP() << "ThreadSanitizer knows no threads in a forked client";
#endif
  if (!WatchedPage().works()) GTEST_SKIP() << "no userfaultfd for us";
  std::atomic<int> copying{0};
  const auto root = Directory::make_root();
  ASSERT_TRUE(root->add_device("dev", {}, [&](pid_t, int) -> Result<std::shared_ptr<OpenNode>> {
    return std::make_shared<Copier>(copying);
  }));
  auto server = FuseServer::create(root, {});
  if (!server) GTEST_SKIP() << server.error();
  const int mount = (*server)->root().get();

  std::array<int, 2> go{};
  ASSERT_EQ(pipe2(go.data(), O_CLOEXEC), 0);
  const pid_t hostile = start_process([&] {
    close(go[1]);
    WatchedPage watched;
    const int fd = openat(mount, "dev", O_RDWR);
    std::atomic<int> answered{0};
    std::vector<std::thread> threads;
    for (int i = 0; i < 100; ++i) {
      threads.emplace_back([&] { answered += ioctl(fd, kCopy, watched.page()) == 0 ? 1 : 0; });
    }
    char byte = 0;
    while (read(go[0], &byte, 1) > 0) {
    }
    watched.fill();
    for (auto& thread : threads) thread.join();
    return answered == 100 ? 0 : 1;
  });
  // It has what it may have when this stays as it is.
  int before = 0;
  for (int same = 0; same < 20; same = before == copying && before != 0 ? same + 1 : 0) {
    before = copying;
    std::this_thread::sleep_for(10ms);
  }
  EXPECT_GE(copying, 20);
  EXPECT_LE(copying, 32);
  // Others are served, several at a time, also those with arguments.
  std::vector<pid_t> others;
  for (int i = 0; i < 3; ++i) {
    others.push_back(start_process([&] {
      const int fd = openat(mount, "dev", O_RDWR);
      for (int round = 0; round < 50; ++round) {
        std::uint64_t argument = 0;
        if (ioctl(fd, kEcho, round) != round || ioctl(fd, kCopy, &argument) != 0) return 1;
      }
      return 0;
    }));
  }
  for (const pid_t other : others) EXPECT_EQ(result_of(other), 0);
  close(go[0]);
  close(go[1]);
  EXPECT_EQ(result_of(hostile), 0);  // all its requests have been served
  EXPECT_EQ(copying, 0);
}

// A FUSE file system with one file, whose closes wait for `let_go`.
class SlowFile {
 public:
  SlowFile() {
    auto mount = mount_detached();
    if (!mount) return;
    fuse_lowlevel_ops ops{};
    ops.lookup = [](fuse_req_t request, fuse_ino_t, const char*) {
      fuse_entry_param entry{};
      entry.ino = 2;
      entry.attr.st_ino = 2;
      entry.attr.st_mode = S_IFREG | 0666;
      entry.attr.st_nlink = 1;
      fuse_reply_entry(request, &entry);
    };
    ops.getattr = [](fuse_req_t request, fuse_ino_t number, fuse_file_info*) {
      struct stat info {};
      info.st_ino = number;
      info.st_mode = number == 1 ? S_IFDIR | 0755 : S_IFREG | 0666;
      fuse_reply_attr(request, &info, 60);
    };
    ops.open = [](fuse_req_t request, fuse_ino_t, fuse_file_info* file) {
      fuse_reply_open(request, file);
    };
    ops.flush = [](fuse_req_t request, fuse_ino_t, fuse_file_info*) {
      static_cast<SlowFile*>(fuse_req_userdata(request))->flush(request);
    };
    std::array<char*, 1> argv{const_cast<char*>("slow")};
    fuse_args args{.argc = 1, .argv = argv.data(), .allocated = 0};
    session_ = fuse_session_new(&args, &ops, sizeof ops, this);
    fuse_opt_free_args(&args);
    const fuse_custom_io io{
        .writev = [](int fd, iovec* pieces, int count, void*) { return writev(fd, pieces, count); },
        .read = [](int fd, void* data, std::size_t size, void*) { return ::read(fd, data, size); },
        .splice_receive = nullptr,
        .splice_send = nullptr};
    if (fuse_session_custom_io(session_, &io, mount->device.release()) != 0) return;
    root_ = std::move(mount->root);
    thread_ = std::thread([this] {
      fuse_buf buffer{};
      while (fuse_session_receive_buf(session_, &buffer) > 0) {
        fuse_session_process_buf(session_, &buffer);
      }
      free(buffer.mem);
    });
  }
  // No file may be open any more.
  ~SlowFile() {
    let_go();
    root_.reset();
    if (thread_.joinable()) thread_.join();
    if (session_ != nullptr) fuse_session_destroy(session_);
  }
  void let_go() {
    const std::lock_guard lock(mutex_);
    for (const auto request : std::exchange(waiting_, {})) fuse_reply_err(request, 0);
    let_go_ = true;
  }
  [[nodiscard]] const Fd& root() const { return root_; }
  std::atomic<int> flushes{0};

 private:
  void flush(fuse_req_t request) {
    const std::lock_guard lock(mutex_);
    ++flushes;
    if (let_go_) {
      fuse_reply_err(request, 0);
    } else {
      waiting_.push_back(request);
    }
  }

  fuse_session* session_ = nullptr;
  std::mutex mutex_;
  bool let_go_ = false;
  std::vector<fuse_req_t> waiting_;
  Fd root_;
  std::thread thread_;
};

// A device that closes when it is told to.
class Reluctant final : public vfio::DeviceOps {
 public:
  explicit Reluctant(std::atomic<bool>& may_close) : may_close_(may_close) {}
  void close_device() override { may_close_.wait(false); }
  vfio::DeviceInfo info() override { return {}; }
  Result<vfio::RegionInfo> region_info(std::uint32_t) override { return fail(EINVAL); }
  Result<vfio::IrqInfo> irq_info(std::uint32_t) override { return fail(EINVAL); }
  Result<int> set_irqs(const vfio::IrqSet&) override { return fail(EINVAL); }
  Result<std::size_t> read(std::uint64_t, std::span<std::byte>) override { return fail(EINVAL); }
  Result<std::size_t> write(std::uint64_t, std::span<const std::byte>) override {
    return fail(EINVAL);
  }

 private:
  std::atomic<bool>& may_close_;
};

class HostileGroupClient : public testing::Test {
 protected:
  void SetUp() override {
    auto server = Server::create(host_, {});
    if (!server) GTEST_SKIP() << server.error();
    server_ = std::move(*server);
    for (int i = 0; i < 2; ++i) {
      devices_.push_back(host_.vfio().register_emulated("device" + std::to_string(i),
                                                        "devices/device" + std::to_string(i),
                                                        std::make_unique<Reluctant>(may_close_)));
    }
  }
  void TearDown() override {
    may_close_ = true;
    may_close_.notify_all();
    for (const auto& device : devices_) host_.vfio().unregister(device);
    server_.reset();
  }
  Fd open(const std::string& name) {
    return Fd(openat(server_->root().get(), ("dev/vfio/" + name).c_str(), O_RDWR | O_CLOEXEC));
  }
  std::string group_of(int device) { return devices_[device]->group().node_name(); }
  // A client's usual first steps.
  bool attach(const Fd& container, const Fd& group) {
    int number = container.get();
    return ioctl(group.get(), VFIO_GROUP_SET_CONTAINER, &number) == 0 &&
           ioctl(container.get(), VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU) == 0;
  }

  std::atomic<bool> may_close_{true};
  Host host_{7};
  std::unique_ptr<Server> server_;
  std::vector<std::shared_ptr<vfio::Device>> devices_;
};

TEST_F(HostileGroupClient, ForeignFilesThatDoNotCloseHoldNobodyUp) {
  SlowFile slow;
  if (!slow.root()) GTEST_SKIP() << "no second FUSE file system";
  std::array<int, 2> done{};
  ASSERT_EQ(pipe2(done.data(), O_CLOEXEC), 0);
  const pid_t hostile = start_process([&] {
    const Fd group = open(group_of(0));
    int number = openat(slow.root().get(), "file", O_RDWR);
    for (int i = 0; i < 3; ++i) {
      if (ioctl(group.get(), VFIO_GROUP_SET_CONTAINER, &number) != -1 || errno != EBADFD) return 1;
    }
    if (write(done[1], "", 1) != 1) return 1;
    return 0;  // as far as it gets: the end of a process closes its files
  });
  char byte = 0;
  close(done[1]);
  EXPECT_EQ(read(done[0], &byte, 1), 1);
  close(done[0]);
  while (slow.flushes < 3) std::this_thread::sleep_for(1ms);
  const pid_t other = start_process([&] {
    const Fd container = open("vfio");
    const Fd group = open(group_of(1));
    return attach(container, group) ? 0 : 1;
  });
  EXPECT_EQ(result_of(other), 0);
  slow.let_go();
  EXPECT_EQ(result_of(hostile), 0);
}

TEST_F(HostileGroupClient, ASlowCloseIsWaitedForByWhoSharesTheGroupOnly) {
  const Fd container = open("vfio");
  Fd group = open(group_of(0));
  ASSERT_TRUE(attach(container, group));
  const auto file = std::get<std::shared_ptr<vfio::GroupFile>>(server_->identify(group));
  auto opened = server_->open_device(*vfio::GroupFile::get_device(file, "device0"));
  ASSERT_TRUE(opened);
  may_close_ = false;
  opened->reset();

  const auto before = std::chrono::steady_clock::now();
  {
    const Fd other_container = open("vfio");
    const Fd other_group = open(group_of(1));
    EXPECT_TRUE(attach(other_container, other_group));
    EXPECT_EQ(ioctl(other_container.get(), VFIO_CHECK_EXTENSION, VFIO_TYPE1_IOMMU), 1);
  }
  EXPECT_LT(std::chrono::steady_clock::now() - before, 1s);

  // Who asks about this group gets an answer that is right after the close.
  std::thread closer([&] {
    std::this_thread::sleep_for(50ms);
    may_close_ = true;
    may_close_.notify_all();
  });
  EXPECT_EQ(ioctl(group.get(), VFIO_GROUP_UNSET_CONTAINER), 0) << strerror(errno);
  closer.join();
}

}  // namespace
}  // namespace uvfio::nodes
