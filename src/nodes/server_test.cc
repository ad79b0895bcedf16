// The door with a real host behind it: what a client sees of a small mediated device.
#include "nodes/server.h"

#include <dirent.h>
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/vfio.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstring>
#include <set>
#include <thread>

namespace uvfio::nodes {
namespace {

using namespace std::chrono_literals;

constexpr std::uint64_t region_offset(unsigned index) { return std::uint64_t{index} << 40; }

// Region 0 is 64 bytes of registers; region 2 is a page of shared memory.
class Echo final : public vfio::DeviceOps {
 public:
  explicit Echo(std::atomic<int>& open) : open_(open) {
    memory_.reset(memfd_create("echo", MFD_CLOEXEC));
    EXPECT_EQ(ftruncate(memory_.get(), static_cast<off_t>(region_offset(2) + 4096)), 0);
  }
  Status open_device(vfio::Device&) override {
    ++open_;
    return {};
  }
  void close_device() override {
    std::this_thread::sleep_for(std::chrono::microseconds(300));
    --open_;
  }
  vfio::DeviceInfo info() override { return {VFIO_DEVICE_FLAGS_PCI, 3, 1}; }
  Result<vfio::RegionInfo> region_info(std::uint32_t index) override {
    if (index >= 3) return fail(EINVAL);
    vfio::RegionInfo info;
    info.offset = region_offset(index);
    if (index == 1) return info;
    info.size = index == 0 ? 64 : 4096;
    info.flags = VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE;
    if (index == 2) info.flags |= VFIO_REGION_INFO_FLAG_MMAP;
    return info;
  }
  Result<vfio::IrqInfo> irq_info(std::uint32_t index) override {
    if (index != 0) return fail(EINVAL);
    return vfio::IrqInfo{VFIO_IRQ_INFO_EVENTFD, 1};
  }
  Result<int> set_irqs(const vfio::IrqSet& set) override {
    if (set.data() != VFIO_IRQ_SET_DATA_EVENTFD) return fail(ENOTTY);
    auto event = set.eventfd(0);
    if (!event) return std::unexpected(event.error());
    event->signal();
    return 0;
  }
  Result<std::size_t> read(std::uint64_t position, std::span<std::byte> data) override {
    if (position >= 64) return fail(EINVAL);
    const std::size_t count = std::min<std::size_t>(data.size(), 64 - position);
    std::memcpy(data.data(), registers_ + position, count);
    return count;
  }
  Result<std::size_t> write(std::uint64_t position, std::span<const std::byte> data) override {
    if (position >= 64) return fail(EINVAL);
    const std::size_t count = std::min<std::size_t>(data.size(), 64 - position);
    std::memcpy(registers_ + position, data.data(), count);
    return count;
  }
  const Fd* mmap_backing() override { return &memory_; }

 private:
  std::atomic<int>& open_;
  Fd memory_;
  std::byte registers_[64]{};
};

class EchoDriver final : public mdev::Driver {
 public:
  std::string name() const override { return "echo"; }
  std::string device_api() const override { return "vfio-pci"; }
  unsigned max_instances() const override { return 24; }
  Result<std::unique_ptr<vfio::DeviceOps>> probe(mdev::Device& device) override {
    device.attributes = {{"vendor",
                          {{.name = "text",
                            .mode = 0444,
                            .show = [name = device.name()]() -> Result<std::string> {
                              return "This is " + name + "\n";
                            },
                            .store = {}}}}};
    return std::make_unique<Echo>(open);
  }
  std::atomic<int> open{0};
};

constexpr const char* kUuid = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001";
const std::string kParent = "sys/devices/virtual/echo/echo";
const std::string kType = kParent + "/mdev_supported_types/echo-1";
const std::string kDevice = kParent + "/" + kUuid;

class ServerTest : public testing::Test {
 protected:
  void SetUp() override {
    auto server = Server::create(host_, {});
    if (!server) GTEST_SKIP() << server.error();
    server_ = std::move(*server);
    ASSERT_TRUE(host_.mdev().register_driver(driver_));
    mdev::ParentInfo info;
    info.name = info.driver_name = info.class_name = "echo";
    info.sysfs_path = kParent.substr(4);
    info.types = {{"1", "One echo"}, {"2", ""}};
    parent_ = host_.mdev().register_parent(std::move(info), driver_).value();
  }
  void TearDown() override {
    if (!parent_) return;
    host_.mdev().unregister_parent(parent_);
    host_.mdev().unregister_driver(driver_);
    server_.reset();
  }

  Fd open(const std::string& path, int flags = O_RDWR) {
    return Fd(openat(server_->root().get(), path.c_str(), flags | O_CLOEXEC));
  }
  std::string text(const std::string& path) {
    const Fd fd = open(path, O_RDONLY);
    std::string data(4096, '\0');
    const ssize_t size = read(fd.get(), data.data(), data.size());
    if (size < 0) return strerror(errno);
    data.resize(static_cast<std::size_t>(size));
    return data;
  }
  // 0 or errno, as `echo text > path`.
  int echo(const std::string& data, const std::string& path) {
    const Fd fd = open(path, O_WRONLY | O_CREAT | O_TRUNC);
    if (!fd) return errno;
    const std::string with_newline = data + "\n";
    return write(fd.get(), with_newline.data(), with_newline.size()) ==
                   static_cast<ssize_t>(with_newline.size())
               ? 0
               : errno;
  }
  // One line per entry as `find -printf '%P %M %l'` has it.
  std::set<std::string> listing(const std::string& path) {
    std::set<std::string> lines;
    const Fd fd = open(path, O_RDONLY | O_DIRECTORY);
    if (!fd) return {strerror(errno)};
    DIR* const directory = fdopendir(dup(fd.get()));
    while (const dirent* entry = readdir(directory)) {
      const std::string name = entry->d_name;
      if (name == "." || name == "..") continue;
      struct stat info {};
      EXPECT_EQ(fstatat(fd.get(), name.c_str(), &info, AT_SYMLINK_NOFOLLOW), 0) << name;
      if (S_ISLNK(info.st_mode)) {
        std::string target(256, '\0');
        const ssize_t size = readlinkat(fd.get(), name.c_str(), target.data(), target.size());
        target.resize(static_cast<std::size_t>(size));
        EXPECT_EQ(fstatat(fd.get(), name.c_str(), &info, 0), 0) << name << " dangles: " << target;
        lines.insert(name + " -> " + target);
      } else if (S_ISDIR(info.st_mode)) {
        EXPECT_EQ(info.st_mode & 07777, 0755u) << name;
        lines.insert(name + "/");
      } else {
        char mode[8];
        snprintf(mode, sizeof(mode), "%04o", info.st_mode & 07777);
        lines.insert(name + " " + mode);
      }
    }
    closedir(directory);
    return lines;
  }
  Fd device_fd(const Fd& group) {
    const auto file = std::get<std::shared_ptr<vfio::GroupFile>>(server_->identify(group));
    auto device = vfio::GroupFile::get_device(file, kUuid);
    if (!device) return {};
    return server_->open_device(std::move(*device)).value();
  }

  Host host_{7};
  EchoDriver driver_;
  std::unique_ptr<Server> server_;
  std::shared_ptr<mdev::Parent> parent_;
};

// Names, links, modes and contents as Linux 6.18 shows them for its mtty sample.
TEST_F(ServerTest, SysfsIsWhatTheKernelShows) {
  ASSERT_EQ(echo(kUuid, kType + "/create"), 0);
  using Lines = std::set<std::string>;
  const std::string uuid = kUuid;
  EXPECT_EQ(listing("sys/class/mdev_bus"), Lines{"echo -> ../../devices/virtual/echo/echo"});
  EXPECT_EQ(listing("sys/class/echo"), Lines{"echo -> ../../devices/virtual/echo/echo"});
  EXPECT_EQ(listing("sys/bus/mdev"), (Lines{"devices/", "drivers/", "drivers_autoprobe 0644",
                                            "drivers_probe 0200", "uevent 0200"}));
  EXPECT_EQ(listing("sys/bus/mdev/devices"),
            Lines{uuid + " -> ../../../devices/virtual/echo/echo/" + uuid});
  EXPECT_EQ(listing("sys/bus/mdev/drivers"), Lines{"echo/"});
  EXPECT_EQ(listing("sys/bus/mdev/drivers/echo"),
            (Lines{uuid + " -> ../../../../devices/virtual/echo/echo/" + uuid, "bind 0200",
                   "uevent 0200", "unbind 0200"}));
  EXPECT_EQ(listing("sys/class/vfio-dev"),
            Lines{"vfio0 -> ../../devices/virtual/echo/echo/" + uuid + "/vfio-dev/vfio0"});
  EXPECT_EQ(listing("sys/kernel/iommu_groups"), Lines{"7/"});
  EXPECT_EQ(listing("sys/kernel/iommu_groups/7"),
            (Lines{"devices/", "name 0444", "reserved_regions 0444", "type 0644"}));
  EXPECT_EQ(listing("sys/kernel/iommu_groups/7/devices"),
            Lines{uuid + " -> ../../../../devices/virtual/echo/echo/" + uuid});
  EXPECT_EQ(listing(kParent), (Lines{uuid + "/", "mdev_supported_types/",
                                     "subsystem -> ../../../../class/echo", "uevent 0644"}));
  EXPECT_EQ(listing(kDevice),
            (Lines{"driver -> ../../../../../bus/mdev/drivers/echo",
                   "iommu_group -> ../../../../../kernel/iommu_groups/7",
                   "mdev_type -> ../mdev_supported_types/echo-1", "remove 0200",
                   "subsystem -> ../../../../../bus/mdev", "uevent 0644", "vendor/", "vfio-dev/"}));
  EXPECT_EQ(listing(kDevice + "/vendor"), Lines{"text 0444"});
  EXPECT_EQ(listing(kDevice + "/vfio-dev"), Lines{"vfio0/"});
  EXPECT_EQ(listing(kDevice + "/vfio-dev/vfio0"),
            (Lines{"device -> ../../../" + uuid, "subsystem -> ../../../../../../../class/vfio-dev",
                   "uevent 0644"}));
  EXPECT_EQ(listing(kParent + "/mdev_supported_types"), (Lines{"echo-1/", "echo-2/"}));
  EXPECT_EQ(listing(kType), (Lines{"available_instances 0444", "create 0200", "device_api 0444",
                                   "devices/", "name 0444"}));
  EXPECT_EQ(listing(kType + "/devices"), Lines{uuid + " -> ../../../" + uuid});
  EXPECT_EQ(listing("dev/vfio"), (Lines{"7 0600", "vfio 0666"}));
  EXPECT_EQ(listing("sys/class/vfio"), Lines{"7 -> ../../devices/virtual/vfio/7"});

  EXPECT_EQ(text(kType + "/available_instances"), "23\n");
  EXPECT_EQ(text(kType + "/name"), "One echo\n");
  EXPECT_EQ(text(kParent + "/mdev_supported_types/echo-2/name"), "echo-2\n");
  EXPECT_EQ(text(kType + "/device_api"), "vfio-pci\n");
  EXPECT_EQ(text(kDevice + "/uevent"), "DRIVER=echo\n");
  EXPECT_EQ(text(kDevice + "/vendor/text"), "This is " + uuid + "\n");
  EXPECT_EQ(text("sys/kernel/iommu_groups/7/name"), "vfio-noiommu\n");
  EXPECT_EQ(text("sys/kernel/iommu_groups/7/type"), "unknown\n");
  EXPECT_EQ(text("sys/kernel/iommu_groups/7/reserved_regions"), "");
  EXPECT_EQ(text("sys/bus/mdev/drivers_autoprobe"), "1\n");
}

TEST_F(ServerTest, GuestsStandBesideOurEntries) {
  Host host(8);
  Server::Options options;
  options.guests = {{"sys/kernel/iommu_groups/3", ""},
                    {"sys/class/mdev_bus/gpu", "../../devices/gpu"}};
  const auto server = Server::create(host, options);
  ASSERT_TRUE(server) << server.error();
  EchoDriver driver;
  ASSERT_TRUE(host.mdev().register_driver(driver));
  mdev::ParentInfo info;
  info.name = info.driver_name = "echo";
  info.sysfs_path = kParent.substr(4);
  info.types = {{"1", ""}};
  const auto parent = host.mdev().register_parent(std::move(info), driver).value();
  ASSERT_TRUE(host.mdev().create(parent, parent->types()[0], Uuid::random()));
  const auto is = [&](const char* path, mode_t type) {
    struct stat status {};
    return fstatat((*server)->root().get(), path, &status, AT_SYMLINK_NOFOLLOW) == 0 &&
           (status.st_mode & S_IFMT) == type;
  };
  EXPECT_TRUE(is("sys/kernel/iommu_groups/3", S_IFDIR));
  EXPECT_TRUE(is("sys/kernel/iommu_groups/8", S_IFDIR));
  EXPECT_TRUE(is("sys/class/mdev_bus/gpu", S_IFLNK));
  EXPECT_TRUE(is("sys/class/mdev_bus/echo", S_IFLNK));
  host.mdev().unregister_parent(parent);
  host.mdev().unregister_driver(driver);
  EXPECT_TRUE(is("sys/kernel/iommu_groups/3", S_IFDIR));
}

TEST_F(ServerTest, WritesFailAsInTheKernel) {
  EXPECT_EQ(echo("short", kType + "/create"), EINVAL);
  EXPECT_EQ(echo(std::string(36, 'x'), kType + "/create"), EINVAL);
  EXPECT_EQ(echo(kUuid, kType + "/create"), 0);
  EXPECT_EQ(echo(kUuid, kType + "/create"), EEXIST);
  EXPECT_EQ(echo("1", kType + "/name"), EACCES);
  EXPECT_EQ(echo("x", "sys/bus/mdev/drivers/echo/bind"), ENODEV);
  EXPECT_EQ(echo(kUuid, "sys/bus/mdev/drivers/echo/bind"), ENODEV);
  EXPECT_EQ(echo("x", "sys/bus/mdev/drivers/echo/unbind"), ENODEV);
  EXPECT_EQ(echo("x", "sys/bus/mdev/drivers_probe"), ENODEV);
  EXPECT_EQ(echo(kUuid, "sys/bus/mdev/drivers_probe"), 0);
  EXPECT_EQ(echo("0", "sys/bus/mdev/drivers_autoprobe"), 0);
  EXPECT_EQ(text("sys/bus/mdev/drivers_autoprobe"), "0\n");
  EXPECT_EQ(echo("junk", kDevice + "/uevent"), EINVAL);
  EXPECT_EQ(echo("add", kDevice + "/uevent"), 0);
  EXPECT_EQ(echo("identity", "sys/kernel/iommu_groups/7/type"), EINVAL);
  EXPECT_EQ(echo("x", kDevice + "/new"), EACCES);
  EXPECT_EQ(echo("junk", kDevice + "/remove"), EINVAL);
  EXPECT_EQ(echo("0", kDevice + "/remove"), 0);
  EXPECT_EQ(echo("1", kDevice + "/remove"), 0);
  EXPECT_EQ(listing(kDevice), std::set<std::string>{strerror(ENOENT)});
  EXPECT_EQ(listing("dev/vfio"), std::set<std::string>{"vfio 0666"});
  EXPECT_EQ(listing("sys/kernel/iommu_groups"), std::set<std::string>{});
  EXPECT_EQ(listing("sys/bus/mdev/devices"), std::set<std::string>{});
  EXPECT_EQ(text(kType + "/available_instances"), "24\n");
}

TEST_F(ServerTest, AClientUsesADevice) {
  ASSERT_EQ(echo(kUuid, kType + "/create"), 0);
  const Fd container = open("dev/vfio/vfio");
  const Fd group = open("dev/vfio/7");
  ASSERT_TRUE(container && group);
  EXPECT_FALSE(open("dev/vfio/7"));
  EXPECT_EQ(errno, EBUSY);
  EXPECT_EQ(ioctl(container.get(), VFIO_GET_API_VERSION), VFIO_API_VERSION);
  EXPECT_EQ(ioctl(container.get(), VFIO_CHECK_EXTENSION, VFIO_TYPE1v2_IOMMU), 1);
  char byte;
  EXPECT_EQ(read(container.get(), &byte, 1), -1);
  EXPECT_EQ(errno, EINVAL);

  int number = 9999;
  EXPECT_EQ(ioctl(group.get(), VFIO_GROUP_SET_CONTAINER, &number), -1);
  EXPECT_EQ(errno, EBADF);
  number = group.get();
  EXPECT_EQ(ioctl(group.get(), VFIO_GROUP_SET_CONTAINER, &number), -1);
  EXPECT_EQ(errno, EBADFD);
  EXPECT_EQ(ioctl(group.get(), VFIO_GROUP_SET_CONTAINER, nullptr), -1);
  EXPECT_EQ(errno, EFAULT);
  number = container.get();
  ASSERT_EQ(ioctl(group.get(), VFIO_GROUP_SET_CONTAINER, &number), 0);
  ASSERT_EQ(ioctl(container.get(), VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU), 0);
  vfio_group_status status{.argsz = sizeof(status), .flags = 0};
  ASSERT_EQ(ioctl(group.get(), VFIO_GROUP_GET_STATUS, &status), 0);
  EXPECT_EQ(status.flags,
            static_cast<unsigned>(VFIO_GROUP_FLAGS_CONTAINER_SET | VFIO_GROUP_FLAGS_VIABLE));

  EXPECT_EQ(ioctl(group.get(), VFIO_GROUP_GET_DEVICE_FD, kUuid), -1);
  EXPECT_EQ(errno, EOPNOTSUPP);
  EXPECT_EQ(ioctl(group.get(), VFIO_GROUP_GET_DEVICE_FD, "nobody"), -1);
  EXPECT_EQ(errno, ENODEV);

  const Fd device = device_fd(group);
  const Fd again = device_fd(group);
  ASSERT_TRUE(device && again);
  EXPECT_EQ(driver_.open, 1);
  EXPECT_TRUE(std::holds_alternative<std::shared_ptr<vfio::DeviceFile>>(server_->identify(device)));
  // Nobody gets at it by name.
  const std::string path = "/proc/self/fd/" + std::to_string(device.get());
  EXPECT_EQ(::open(path.c_str(), O_RDWR), -1);
  EXPECT_EQ(errno, ENXIO);

  EXPECT_EQ(pwrite(device.get(), "hello", 6, 8), 6);
  char data[8]{};
  EXPECT_EQ(pread(again.get(), data, 6, 8), 6);
  EXPECT_STREQ(data, "hello");
  EXPECT_EQ(pread(device.get(), data, 6, 60), 4);
  EXPECT_EQ(pread(device.get(), data, 6, static_cast<off_t>(region_offset(1))), -1);
  EXPECT_EQ(errno, EINVAL);

  vfio_region_info region{};
  region.argsz = sizeof(region);
  region.index = 2;
  ASSERT_EQ(ioctl(device.get(), VFIO_DEVICE_GET_REGION_INFO, &region), 0);
  EXPECT_EQ((region.flags & VFIO_REGION_INFO_FLAG_MMAP) != 0, server_->passthrough());
  if (server_->passthrough()) {
    auto* const first = static_cast<char*>(mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED,
                                                device.get(), static_cast<off_t>(region.offset)));
    auto* const second = static_cast<char*>(mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED,
                                                 again.get(), static_cast<off_t>(region.offset)));
    ASSERT_NE(first, MAP_FAILED);
    ASSERT_NE(second, MAP_FAILED);
    strcpy(first, "shared");
    EXPECT_STREQ(second, "shared");
    munmap(first, 4096);
    munmap(second, 4096);
  }

  struct {  // vfio_irq_set with a payload
    std::uint32_t argsz, flags, index, start, count;
    std::int32_t fd;
  } irqs{};
  static_assert(offsetof(decltype(irqs), fd) == sizeof(vfio_irq_set));
  const Fd event(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  irqs = {.argsz = sizeof(irqs),
          .flags = VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER,
          .index = 0,
          .start = 0,
          .count = 1,
          .fd = event.get()};
  EXPECT_EQ(ioctl(device.get(), VFIO_DEVICE_SET_IRQS, &irqs), 0) << strerror(errno);
  std::uint64_t count = 0;
  EXPECT_EQ(read(event.get(), &count, sizeof(count)), 8);
  irqs.fd = device.get();  // one of ours: must neither work nor block
  EXPECT_EQ(ioctl(device.get(), VFIO_DEVICE_SET_IRQS, &irqs), -1);
  EXPECT_EQ(errno, EINVAL);

  void* const memory =
      mmap(nullptr, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  vfio_iommu_type1_dma_map map{.argsz = sizeof(map),
                               .flags = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE,
                               .vaddr = reinterpret_cast<std::uint64_t>(memory),
                               .iova = 0x10000,
                               .size = 8192};
  EXPECT_EQ(ioctl(container.get(), VFIO_IOMMU_MAP_DMA, &map), 0) << strerror(errno);
  EXPECT_EQ(ioctl(container.get(), VFIO_IOMMU_MAP_DMA, &map), -1);
  EXPECT_EQ(errno, EEXIST);
  munmap(memory, 8192);
}

// The order of closes: each round would fail if one of the closes of the round before were late.
TEST_F(ServerTest, ClosesAreInOrder) {
  ASSERT_EQ(echo(kUuid, kType + "/create"), 0);
  for (int round = 0; round < 200; ++round) {
    const Fd container = open("dev/vfio/vfio");
    const Fd group = open("dev/vfio/7");
    ASSERT_TRUE(group) << "round " << round << ": " << strerror(errno);
    int number = container.get();
    ASSERT_EQ(ioctl(group.get(), VFIO_GROUP_SET_CONTAINER, &number), 0);
    ASSERT_EQ(ioctl(container.get(), VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU), 0);
    Fd device = device_fd(group);
    ASSERT_TRUE(device);
    ASSERT_EQ(driver_.open, 1);
    device.reset();
    ASSERT_EQ(ioctl(group.get(), VFIO_GROUP_UNSET_CONTAINER), 0)
        << "round " << round << ": " << strerror(errno);
    ASSERT_EQ(driver_.open, 0);
  }
}

TEST_F(ServerTest, RemoveWaitsForTheUserAndHoldsNobodyUp) {
  ASSERT_EQ(echo(kUuid, kType + "/create"), 0);
  Fd container = open("dev/vfio/vfio");
  Fd group = open("dev/vfio/7");
  int number = container.get();
  ASSERT_EQ(ioctl(group.get(), VFIO_GROUP_SET_CONTAINER, &number), 0);
  ASSERT_EQ(ioctl(container.get(), VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU), 0);
  Fd device = device_fd(group);
  std::atomic<bool> removed{false};
  std::thread remover([&] {
    EXPECT_EQ(echo("1", kDevice + "/remove"), 0);
    removed = true;
  });
  std::this_thread::sleep_for(50ms);
  EXPECT_FALSE(removed);
  EXPECT_EQ(echo("1", kDevice + "/remove"), EACCES);  // the attribute has gone first
  EXPECT_EQ(pwrite(device.get(), "x", 1, 0), 1);
  EXPECT_EQ(text(kType + "/available_instances"), "23\n");
  device.reset();
  remover.join();
  EXPECT_EQ(text(kType + "/available_instances"), "24\n");
  EXPECT_FALSE(open("dev/vfio/7"));
  EXPECT_EQ(errno, ENOENT);
}

TEST_F(ServerTest, AnotherProcessIsServedAndMayDieAtAnyTime) {
  ASSERT_EQ(echo(kUuid, kType + "/create"), 0);
  int pipes[2];
  ASSERT_EQ(pipe2(pipes, O_CLOEXEC), 0);
  const int root = server_->root().get();
  const pid_t child = fork();
  if (child == 0) {
    const int container = openat(root, "dev/vfio/vfio", O_RDWR);
    const int group = openat(root, "dev/vfio/7", O_RDWR);
    int number = container;
    const char ok = ioctl(group, VFIO_GROUP_SET_CONTAINER, &number) == 0 &&
                            ioctl(container, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU) == 0
                        ? 'y'
                        : 'n';
    if (write(pipes[1], &ok, 1) != 1) _exit(1);
    pause();
  }
  char ok = 0;
  ASSERT_EQ(read(pipes[0], &ok, 1), 1);
  EXPECT_EQ(ok, 'y');
  EXPECT_FALSE(open("dev/vfio/7"));
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
  EXPECT_TRUE(open("dev/vfio/7")) << strerror(errno);
  close(pipes[0]);
  close(pipes[1]);
}

TEST_F(ServerTest, TheServerMayEndFirst) {
  ASSERT_EQ(echo(kUuid, kType + "/create"), 0);
  Fd container = open("dev/vfio/vfio");
  Fd group = open("dev/vfio/7");
  int number = container.get();
  ASSERT_EQ(ioctl(group.get(), VFIO_GROUP_SET_CONTAINER, &number), 0);
  ASSERT_EQ(ioctl(container.get(), VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU), 0);
  Fd device = device_fd(group);
  std::thread remover([&, fd = open(kDevice + "/remove", O_WRONLY)] {
    static_cast<void>(write(fd.get(), "1", 1) == 1);
  });
  std::this_thread::sleep_for(20ms);
  server_.reset();
  remover.join();
  EXPECT_EQ(driver_.open, 0);
  EXPECT_EQ(ioctl(container.get(), VFIO_GET_API_VERSION), -1);
  EXPECT_EQ(errno, ENOTCONN);
}

}  // namespace
}  // namespace uvfio::nodes
