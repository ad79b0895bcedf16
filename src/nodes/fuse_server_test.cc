#include "nodes/fuse_server.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <future>
#include <latch>
#include <thread>

#include "nodes/tree.h"

namespace uvfio::nodes {
namespace {

using namespace std::chrono_literals;

constexpr unsigned kEcho = _IO(';', 200);
constexpr unsigned kFail = _IO(';', 201);
constexpr unsigned kAsk = _IO(';', 202);
constexpr unsigned kWait = _IO(';', 203);

// Remembers what it is asked.
class Probe : public OpenNode {
 public:
  explicit Probe(std::atomic<int>& open) : open_(open) { ++open_; }
  ~Probe() override { --open_; }
  Result<std::size_t> read(std::uint64_t position, std::span<std::byte> data) override {
    for (std::size_t i = 0; i < data.size(); ++i) data[i] = static_cast<std::byte>(position + i);
    last_position = position;
    return data.size();
  }
  Result<std::size_t> write(std::uint64_t position, std::span<const std::byte> data) override {
    last_position = position;
    last_size = data.size();
    return data.size();
  }
  Result<int> ioctl(pid_t thread, std::uint32_t command, std::uint64_t arg) override {
    switch (command) {
      case kEcho:
        return static_cast<int>(arg);
      case kFail:
        return fail(static_cast<int>(arg));
      case kAsk:
        return ask(thread, arg);
      case kWait:
        while (!go) std::this_thread::sleep_for(1ms);
        return 0;
      default:
        return fail(ENOTTY);
    }
  }
  bool asks_back(std::uint32_t command) const override { return command == kAsk; }

  using Ask = std::function<Result<int>(pid_t, std::uint64_t)>;
  void set_on_ask(Ask on_ask) {
    const std::lock_guard lock(mutex_);
    on_ask_ = std::move(on_ask);
  }
  std::atomic<std::uint64_t> last_position{0};
  std::atomic<std::size_t> last_size{0};
  std::atomic<bool> go{false};

 private:
  Result<int> ask(pid_t thread, std::uint64_t arg) {
    Ask on_ask;
    {
      const std::lock_guard lock(mutex_);
      on_ask = on_ask_;
    }
    return on_ask(thread, arg);
  }

  std::atomic<int>& open_;
  std::mutex mutex_;
  Ask on_ask_;
};

class FuseServerTest : public testing::Test {
 protected:
  void SetUp() override { start({}); }
  void start(const FuseServer::Options& options) {
    server_.reset();
    auto server = FuseServer::create(root_, options);
    if (!server) GTEST_SKIP() << server.error();
    server_ = std::move(*server);
  }
  Fd open(const char* path, int flags = O_RDWR) {
    return Fd(openat(server_->root().get(), path, flags | O_CLOEXEC, 0600));
  }
  std::shared_ptr<DeviceNode> add_probe(const std::string& name, DeviceNode::Traits traits = {}) {
    return root_
        ->add_device(name, traits,
                     [this](pid_t, int) -> Result<std::shared_ptr<OpenNode>> {
                       auto probe = std::make_shared<Probe>(open_count_);
                       const std::lock_guard lock(mutex_);
                       last_held_ = probe;
                       return probe;
                     })
        .value();
  }
  void add_attribute(std::string name, unsigned mode, bool slow = false) {
    ASSERT_TRUE(
        root_->add_attribute({.name = std::move(name),
                              .mode = mode,
                              .show = [this]() -> Result<std::string> { return fmt_count(); },
                              .store = [this](std::string_view text) -> Status {
                                std::function<Status()> action;
                                {
                                  const std::lock_guard lock(mutex_);
                                  stored_ = text;
                                  action = on_store_;
                                }
                                return action ? action() : Status();
                              }},
                             slow));
  }
  // What the server's threads leave for the test: the kernel puts it in order, but a tool that
  // looks for races cannot know.
  std::shared_ptr<Probe> last() {
    const std::lock_guard lock(mutex_);
    return last_held_.lock();
  }
  std::string stored() {
    const std::lock_guard lock(mutex_);
    return stored_;
  }
  void on_store(std::function<Status()> action) {
    const std::lock_guard lock(mutex_);
    on_store_ = std::move(action);
  }
  std::string fmt_count() { return "shown " + std::to_string(++shows_) + "\n"; }
  void wait_for_closes() {
    for (int i = 0; i < 2000 && open_count_ != 0; ++i) std::this_thread::sleep_for(1ms);
    EXPECT_EQ(open_count_, 0);
  }

  std::mutex mutex_;
  std::shared_ptr<Directory> root_ = Directory::make_root();
  std::atomic<int> open_count_{0};
  std::weak_ptr<Probe> last_held_;
  std::atomic<int> shows_{0};
  std::string stored_;
  std::function<Status()> on_store_;
  std::unique_ptr<FuseServer> server_;
};

std::string read_all(const Fd& fd) {
  std::string text(8192, '\0');
  const ssize_t size = read(fd.get(), text.data(), text.size());
  text.resize(static_cast<std::size_t>(std::max<ssize_t>(size, 0)));
  return text;
}

TEST_F(FuseServerTest, ShowsTheTree) {
  ASSERT_TRUE(root_->make_path("sys/a/b"));
  ASSERT_TRUE(root_->make_path("sys/a").value()->add_link("l", "b"));
  struct stat info {};
  ASSERT_EQ(fstatat(server_->root().get(), "sys/a/l", &info, 0), 0);
  EXPECT_TRUE(S_ISDIR(info.st_mode));
  EXPECT_EQ(info.st_ino, root_->lookup_path("sys/a/b")->id());
  std::string target(100, '\0');
  EXPECT_EQ(readlinkat(server_->root().get(), "sys/a/l", target.data(), target.size()), 1);
  EXPECT_EQ(openat(server_->root().get(), "sys/a/new", O_CREAT | O_WRONLY, 0600), -1);
  EXPECT_EQ(errno, EACCES);
  EXPECT_EQ(mkdirat(server_->root().get(), "sys/new", 0700), -1);
  EXPECT_EQ(errno, EPERM);
  EXPECT_EQ(unlinkat(server_->root().get(), "sys/a/l", 0), -1);
  EXPECT_EQ(errno, EPERM);
  root_->lookup_path("sys/a")->remove();
  EXPECT_EQ(fstatat(server_->root().get(), "sys/a", &info, 0), -1);
  EXPECT_EQ(errno, ENOENT);
}

TEST_F(FuseServerTest, AttributesAreLikeThoseOfSysfs) {
  add_attribute("rw", 0644);
  add_attribute("ro", 0444);
  add_attribute("wo", 0200);
  struct stat info {};
  ASSERT_EQ(fstatat(server_->root().get(), "rw", &info, 0), 0);
  EXPECT_EQ(info.st_size, 4096);
  EXPECT_EQ(info.st_mode, S_IFREG | 0644);
  EXPECT_FALSE(open("ro", O_WRONLY));
  EXPECT_EQ(errno, EACCES);
  EXPECT_FALSE(open("wo", O_RDONLY));
  EXPECT_EQ(errno, EACCES);

  const Fd fd = open("rw");
  ASSERT_TRUE(fd);
  EXPECT_EQ(shows_, 0);
  EXPECT_EQ(read_all(fd), "shown 1\n");
  EXPECT_EQ(read_all(fd), "");
  EXPECT_EQ(shows_, 1);
  lseek(fd.get(), 0, SEEK_SET);
  EXPECT_EQ(read_all(fd), "shown 2\n");
  std::string two(2, ' ');
  EXPECT_EQ(pread(fd.get(), two.data(), 2, 6), 2);
  EXPECT_EQ(two, "2\n");

  // As `echo` and as mdevctl open them.
  const Fd writer = open("wo", O_WRONLY | O_CREAT | O_TRUNC);
  ASSERT_TRUE(writer);
  EXPECT_EQ(write(writer.get(), "one\n", 4), 4);
  EXPECT_EQ(stored(), "one\n");
  const std::string big(5000, 'x');
  EXPECT_EQ(write(writer.get(), big.data(), big.size()), 4096);
  EXPECT_EQ(stored().size(), 4096u);
  on_store([]() -> Status { return fail(EEXIST); });
  EXPECT_EQ(write(writer.get(), "x", 1), -1);
  EXPECT_EQ(errno, EEXIST);

  ASSERT_EQ(fchmodat(server_->root().get(), "ro", 0600, 0), 0);
  ASSERT_EQ(fchownat(server_->root().get(), "ro", 5, 6, 0), 0);
  ASSERT_EQ(fstatat(server_->root().get(), "ro", &info, 0), 0);
  EXPECT_EQ(info.st_mode & 07777, 0600u);
  EXPECT_EQ(info.st_uid, 5u);
  EXPECT_EQ(info.st_gid, 6u);
  EXPECT_EQ(ftruncate(fd.get(), 5), 0);
  ASSERT_EQ(fstat(fd.get(), &info), 0);
  EXPECT_EQ(info.st_size, 4096);

  root_->lookup("rw")->remove();
  EXPECT_EQ(pread(fd.get(), two.data(), 2, 0), -1);
  EXPECT_EQ(errno, ENODEV);
  EXPECT_FALSE(open("rw"));
  EXPECT_EQ(errno, ENOENT);
}

TEST_F(FuseServerTest, DeviceRequestsReachTheNode) {
  add_probe("dev");
  Fd fd = open("dev");
  ASSERT_TRUE(fd);
  EXPECT_EQ(ioctl(fd.get(), kEcho, 0), 0);
  EXPECT_EQ(ioctl(fd.get(), kEcho, 1234567), 1234567);
  EXPECT_EQ(ioctl(fd.get(), kFail, EBADFD), -1);
  EXPECT_EQ(errno, EBADFD);
  EXPECT_EQ(ioctl(fd.get(), kFail, ENOSYS), -1);
  EXPECT_EQ(ioctl(fd.get(), _IOWR('x', 1, long), &fd), -1);
  EXPECT_EQ(errno, ENOTTY);

  std::vector<unsigned char> data(3 << 20);
  const off_t far = (7LL << 40) + 5;
  ASSERT_EQ(pread(fd.get(), data.data(), data.size(), far), static_cast<ssize_t>(data.size()));
  for (std::size_t i = 0; i < data.size(); i += 4093) {
    ASSERT_EQ(data[i], static_cast<unsigned char>(5 + i));
  }
  const off_t end = std::numeric_limits<off_t>::max() - 8;
  EXPECT_EQ(pread(fd.get(), data.data(), 4, end), 4);
  EXPECT_EQ(last()->last_position, static_cast<std::uint64_t>(end));
  EXPECT_EQ(pwrite(fd.get(), data.data(), 16, far), 16);
  EXPECT_EQ(last()->last_position, static_cast<std::uint64_t>(far));
  EXPECT_EQ(last()->last_size, 16u);
  EXPECT_EQ(pwrite(fd.get(), data.data(), data.size(), far), static_cast<ssize_t>(data.size()));

  const Fd copy(fcntl(fd.get(), F_DUPFD_CLOEXEC, 0));
  fd.reset();
  EXPECT_EQ(open_count_, 1);
  EXPECT_EQ(ioctl(copy.get(), kEcho, 5), 5);
}

TEST_F(FuseServerTest, StreamsHaveNoPosition) {
  add_probe("stream", {.stream = true});
  const Fd fd = open("stream", O_RDONLY);
  ASSERT_TRUE(fd);
  char data[4];
  EXPECT_EQ(read(fd.get(), data, 4), 4);
  EXPECT_EQ(pread(fd.get(), data, 4, 0), -1);
  EXPECT_EQ(errno, ESPIPE);
}

// What was closed before is closed for whatever comes next, whichever worker gets it.
TEST_F(FuseServerTest, CloseComesBeforeTheNextRequest) {
  add_probe("other");
  std::atomic<int>& exclusive = open_count_;
  std::atomic<int> overtaken{0};
  class Exclusive : public OpenNode {
   public:
    Exclusive(std::atomic<int>& users, const void* group) : users_(users), group_(group) {}
    ~Exclusive() override {
      std::this_thread::sleep_for(std::chrono::microseconds(200));
      --users_;
    }
    Ties ties() const override { return {.group = group_}; }

   private:
    std::atomic<int>& users_;
    const void* const group_;
  };
  ASSERT_TRUE(root_->add_device("one", {.ties = {.group = this}},
                                [&](pid_t, int) -> Result<std::shared_ptr<OpenNode>> {
                                  if (exclusive.fetch_add(1) != 0) {
                                    --exclusive;
                                    ++overtaken;
                                    return fail(EBUSY);
                                  }
                                  return std::make_shared<Exclusive>(exclusive, this);
                                }));
  for (int i = 0; i < 500; ++i) {
    const Fd fd = open("one");
    ASSERT_TRUE(fd) << "round " << i << ": " << strerror(errno);
  }
  EXPECT_EQ(overtaken, 0);
  // A file that is really open stays busy.
  Fd fd = open("one");
  EXPECT_FALSE(open("one"));
  EXPECT_EQ(errno, EBUSY);
  fd.reset();
  wait_for_closes();
}

TEST_F(FuseServerTest, BlockedRequestsHoldNobodyUp) {
  add_probe("dev");
  // On the heap: that the writer waits for the reply orders nothing that a race detector could see.
  struct Store {
    std::latch entered{1};
    std::atomic<bool> go{false};
  };
  const auto store = std::make_shared<Store>();
  on_store([store]() -> Status {
    store->entered.count_down();
    while (!store->go) std::this_thread::sleep_for(1ms);
    return {};
  });
  add_attribute("remove", 0200, true);
  std::thread writer([&] {
    const Fd fd = open("remove", O_WRONLY);
    EXPECT_EQ(write(fd.get(), "1", 1), 1);
  });
  store->entered.wait();
  // More than there are workers at the start, each waiting for the other's sake.
  std::vector<Fd> fds;
  std::vector<std::shared_ptr<Probe>> probes;
  std::vector<std::thread> waiting;
  for (int i = 0; i < 20; ++i) {
    fds.push_back(open("dev"));
    probes.push_back(last());
  }
  for (int i = 0; i < 20; ++i) {
    waiting.emplace_back([fd = fds[i].get()] { EXPECT_EQ(ioctl(fd, kWait, 0), 0); });
  }
  std::this_thread::sleep_for(20ms);
  EXPECT_EQ(ioctl(fds[0].get(), kEcho, 3), 3);
  for (const auto& probe : probes) probe->go = true;
  for (auto& thread : waiting) thread.join();
  store->go = true;
  writer.join();
}

TEST_F(FuseServerTest, TellsWhatAFileIs) {
  add_probe("dev");
  add_attribute("rw", 0644);
  const Fd fd = open("dev");
  ASSERT_TRUE(fd);
  const auto node = server_->identify(fd);
  ASSERT_TRUE(node);
  EXPECT_EQ(*node, last());
  EXPECT_TRUE(server_->owns(fd));
  EXPECT_EQ(server_->identify(open("rw")).error(), Errno{EBADFD});
  EXPECT_EQ(server_->identify(Fd(::open("/dev/null", O_RDWR))).error(), Errno{EBADFD});
  EXPECT_EQ(server_->identify(open("dev", O_PATH)).error(), Errno{EBADF});
  // Our private numbers mean nothing to anybody else.
  for (unsigned number = 0xf0; number < 0xf4; ++number) {
    EXPECT_EQ(ioctl(fd.get(), _IO('u', number), 0), -1);
    EXPECT_EQ(errno, ENOTTY);
  }
}

TEST_F(FuseServerTest, QuestionsDuringRequestsNeverBlock) {
  start({.max_threads = 2});
  if (!server_) return;
  add_probe("dev");
  std::vector<std::thread> clients;
  std::atomic<int> right{0};
  for (int t = 0; t < 8; ++t) {
    clients.emplace_back([&] {
      const Fd fd = open("dev");
      const auto node = server_->identify(fd);
      ASSERT_TRUE(node);
      auto& probe = static_cast<Probe&>(**node);
      const auto on_ask = [&](pid_t, std::uint64_t arg) -> Result<int> {
        const Fd copy(fcntl(static_cast<int>(arg), F_DUPFD_CLOEXEC, 0));
        const auto same = server_->identify(copy);
        if (same && *same == *node) ++right;
        return 0;
      };
      probe.set_on_ask(on_ask);
      for (int i = 0; i < 50; ++i) EXPECT_EQ(ioctl(fd.get(), kAsk, fd.get()), 0);
    });
  }
  for (auto& client : clients) client.join();
  EXPECT_EQ(right, 8 * 50);
}

TEST_F(FuseServerTest, AKilledClientLeavesNothingOpen) {
  add_probe("dev");
  int pipes[2];
  ASSERT_EQ(pipe2(pipes, O_CLOEXEC), 0);
  const int root = server_->root().get();
  const pid_t child = fork();
  if (child == 0) {
    const int fd = openat(root, "dev", O_RDWR);
    const int copy = dup(fd);
    char ok = fd >= 0 && copy >= 0 ? 'y' : 'n';
    if (write(pipes[1], &ok, 1) != 1) _exit(1);
    pause();
    _exit(0);
  }
  char ok = 0;
  ASSERT_EQ(read(pipes[0], &ok, 1), 1);
  EXPECT_EQ(ok, 'y');
  EXPECT_EQ(open_count_, 1);
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
  close(pipes[0]);
  close(pipes[1]);
  wait_for_closes();
}

TEST_F(FuseServerTest, InterruptedClientsGetTheirAnswer) {
  add_probe("dev");
  const Fd fd = open("dev");
  struct sigaction action {
  }, previous{};
  action.sa_handler = [](int) {};
  sigaction(SIGUSR1, &action, &previous);
  std::atomic<pthread_t> id{};
  std::thread client([&] {
    id = pthread_self();
    EXPECT_EQ(ioctl(fd.get(), kWait, 0), 0);
  });
  std::this_thread::sleep_for(20ms);
  for (int i = 0; i < 5; ++i) {
    pthread_kill(id, SIGUSR1);
    std::this_thread::sleep_for(5ms);
  }
  last()->go = true;
  client.join();
  sigaction(SIGUSR1, &previous, nullptr);
  EXPECT_EQ(ioctl(fd.get(), kEcho, 1), 1);
}

// The kernel waits for an answer that has been asked for, however dead the client is.
TEST_F(FuseServerTest, AKilledClientIsAnsweredWhileItsSlowWriteGoesOn) {
  struct Store {
    std::latch entered{2};
    std::atomic<bool> go{false};
    std::atomic<int> ended{0};
  };
  const auto store = std::make_shared<Store>();
  on_store([store]() -> Status {
    store->entered.count_down();
    while (!store->go) std::this_thread::sleep_for(1ms);
    ++store->ended;
    return {};
  });
  add_attribute("remove", 0200, true);
  const int root = server_->root().get();
  const auto start_writer = [root] {
    const pid_t child = fork();
    if (child != 0) return child;
    signal(SIGUSR1, [](int) {});
    const int fd = openat(root, "remove", O_WRONLY);
    _exit(write(fd, "1", 1) == 1 ? 0 : 1);
  };
  const pid_t killed = start_writer();
  const pid_t warned = start_writer();
  store->entered.wait();
  kill(warned, SIGUSR1);  // which the kernel tells us of, unlike of the next one
  std::this_thread::sleep_for(20ms);
  for (const pid_t child : {killed, warned}) {
    kill(child, SIGKILL);
    int status = 0;
    EXPECT_EQ(waitpid(child, &status, 0), child);  // would hang
    EXPECT_TRUE(WIFSIGNALED(status));
  }
  EXPECT_EQ(store->ended, 0);
  store->go = true;
  while (store->ended != 2) std::this_thread::sleep_for(1ms);
}

TEST_F(FuseServerTest, TheEndOfTheServerDropsOpenFiles) {
  add_probe("dev");
  const Fd fd = open("dev");
  const Fd root(openat(server_->root().get(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  EXPECT_EQ(open_count_, 1);
  server_.reset();
  EXPECT_EQ(open_count_, 0);
  EXPECT_EQ(ioctl(fd.get(), kEcho, 1), -1);
  EXPECT_EQ(errno, ENOTCONN);
  EXPECT_EQ(openat(root.get(), "dev", O_RDWR), -1);
}

TEST_F(FuseServerTest, MappingsShowTheBackingFile) {
  if (!server_->passthrough().available()) {
    GTEST_SKIP() << "no FUSE passthrough (Linux 6.9 and CAP_SYS_ADMIN)";
  }
  constexpr off_t kRegion = 2LL << 40;
  const Fd memory(memfd_create("region", MFD_CLOEXEC));
  ASSERT_EQ(ftruncate(memory.get(), kRegion + 8192), 0);
  auto* const own = static_cast<char*>(
      mmap(nullptr, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, memory.get(), kRegion));
  ASSERT_NE(own, MAP_FAILED);
  const auto id = server_->passthrough().open(memory);
  ASSERT_TRUE(id);
  add_probe("dev", {.size = INT64_MAX, .backing = id->get()});
  // Several opens of one inode, one after the other and at once.
  for (int round = 0; round < 3; ++round) {
    const Fd first = open("dev");
    const Fd second = open("dev");
    ASSERT_TRUE(first && second) << strerror(errno);
    auto* const theirs = static_cast<char*>(
        mmap(nullptr, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, second.get(), kRegion));
    ASSERT_NE(theirs, MAP_FAILED) << strerror(errno);
    strcpy(own + 5000, "to the client");
    EXPECT_STREQ(theirs + 5000, "to the client");
    strcpy(theirs, "to the device");
    EXPECT_STREQ(own, "to the device");
    unsigned char data[4];
    EXPECT_EQ(pread(first.get(), data, 4, kRegion + 1), 4);
    EXPECT_EQ(data[2], 3);  // the node's pattern, not the memory
    EXPECT_EQ(pwrite(first.get(), data, 4, kRegion), 4);
    EXPECT_STREQ(own, "to the device");
    EXPECT_EQ(ioctl(second.get(), kEcho, 9), 9);
    munmap(theirs, 8192);
  }
  munmap(own, 8192);
}

TEST_F(FuseServerTest, WithoutPassthroughNothingCanBeShared) {
  start({.passthrough = false});
  if (!server_) return;
  EXPECT_FALSE(server_->passthrough().available());
  add_probe("dev");
  const Fd fd = open("dev");
  EXPECT_EQ(mmap(nullptr, 4096, PROT_READ, MAP_SHARED, fd.get(), 0), MAP_FAILED);
}

TEST_F(FuseServerTest, OpensOfOurOwnNeedADescriptor) {
  add_probe("dev");
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  const rlimit none{.rlim_cur = 3, .rlim_max = before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &none), 0);
  const auto turn = server_->self().turn();
  const auto fd = server_->self().open("dev", O_RDWR);
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
  ASSERT_FALSE(fd);
  EXPECT_EQ(fd.error(), Errno{EMFILE});
  wait_for_closes();
}

TEST_F(FuseServerTest, StartEndsWhenTheRootCannotBeOpened) {
  if (!server_) return;
  server_.reset();
  // A file of nobody is closed to root, too.
  root_->set_mode(0);
  root_->set_uid(static_cast<uid_t>(-1));
  root_->set_gid(static_cast<gid_t>(-1));
  const auto server = FuseServer::create(root_, {});
  ASSERT_FALSE(server);
  EXPECT_EQ(server.error(), "cannot open the FUSE file system: Permission denied");
}

TEST_F(FuseServerTest, SurvivesManyClients) {
  add_probe("dev");
  add_attribute("rw", 0644);
  std::vector<std::thread> clients;
  std::atomic<bool> stop{false};
  std::thread changes([&] {
    for (int i = 0; !stop; ++i) {
      const auto directory = root_->add_directory("d" + std::to_string(i % 4));
      if (directory) {
        static_cast<void>((*directory)->add_link("l", "x"));
        (*directory)->remove();
      }
    }
  });
  for (int t = 0; t < 6; ++t) {
    clients.emplace_back([&, t] {
      for (int i = 0; i < 100; ++i) {
        const Fd fd = open("dev");
        EXPECT_EQ(ioctl(fd.get(), kEcho, t), t);
        const Fd attribute = open("rw");
        EXPECT_TRUE(read_all(attribute).starts_with("shown"));
        const Fd directory(openat(server_->root().get(), "d1", O_RDONLY));
        const Fd link(openat(server_->root().get(), "d2/l", O_RDONLY));
      }
    });
  }
  for (auto& client : clients) client.join();
  stop = true;
  changes.join();
  wait_for_closes();
}

}  // namespace
}  // namespace uvfio::nodes
