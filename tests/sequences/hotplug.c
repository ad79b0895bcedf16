#include "hotplug.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PCI_DEVICES "/sys/bus/pci/devices"
#define PCI_DRIVER "/sys/bus/pci/drivers/vfio-pci"
#define TYPES "/sys/class/mdev_bus/mtty/mdev_supported_types"

bool find_node(struct mdev* mdev) {
  char path[128], target[256];
  const bool direct = mdev->uuid[4] == ':';
  snprintf(path, sizeof(path), "%s/%s/iommu_group", direct ? PCI_DEVICES : MDEV_DEVICES,
           mdev->uuid);
  ssize_t length = readlink(path, target, sizeof(target) - 1);
  mdev->exists = length > 0;
  if (mdev->exists) {
    target[length] = '\0';
    snprintf(mdev->node, sizeof(mdev->node), "/dev/vfio/%.10s", strrchr(target, '/') + 1);
  }
  return mdev->exists;
}

static long write_text(const char* path, const char* text) {
  int fd = open(path, O_WRONLY | O_CLOEXEC);
  if (fd < 0) {
    return -1;
  }
  long result = write(fd, text, strlen(text));
  const int error = errno;
  close(fd);
  errno = error;
  return result;
}

bool override_driver(const struct mdev* mdev) {
  char path[128];
  snprintf(path, sizeof(path), PCI_DEVICES "/%s/driver_override", mdev->uuid);
  return write_text(path, "vfio-pci") > 0;
}

long bind_device(struct mdev* mdev) {
  const long result = write_text(PCI_DRIVER "/bind", mdev->uuid);
  mdev->exists |= result > 0;
  return result;
}

long create_mdev(struct mdev* mdev, const char* type, const char* uuid) {
  char path[128];
  snprintf(path, sizeof(path), TYPES "/%s/create", type);
  long result = write_text(path, uuid);
  if (result > 0) {
    mdev->informed = false;
    if (!find_node(mdev)) {
      return -2;
    }
  }
  return result;
}

long remove_mdev(struct mdev* mdev, const char* text) {
  char path[128];
  snprintf(path, sizeof(path), MDEV_DEVICES "/%s/remove", mdev->uuid);
  return write_text(path, text);
}

static void create(struct world* world, unsigned index) {
  struct mdev* mdev = &world->mdevs[index];
  const char* type = once_in(&world->chance, 3) ? "mtty-2" : "mtty-1";
  char uuid[48];
  snprintf(uuid, sizeof(uuid), "%s", mdev->uuid);
  const char* what = "";
  if (once_in(&world->chance, 16)) {
    static const char* const kWrong[] = {"x", "short", "long"};
    what = ONE_OF(&world->chance, kWrong);
    if (*what == 'x') {
      uuid[4] = 'x';
    } else {
      strcpy(uuid + 35, *what == 's' ? "" : "0\n\n");
    }
  }
  errno = 0;
  const long result = create_mdev(mdev, type, uuid);
  NOTE(&world->record, with("create m%u %s %s", index, type, what), result);
}

// A removal waits for the users of the device: close them before.
static void close_users(struct world* world, unsigned index) {
  for (unsigned i = 0; i < kDevices; i++) {
    if (world->devices[i].fd >= 0 && world->devices[i].mdev == index) {
      close_device(world, i);
    }
  }
}

static void unplug(struct world* world, unsigned index) {
  struct mdev* mdev = &world->mdevs[index];
  static const char* const kTexts[] = {"1", "1", "1", "1\n", "2", "0", "x", ""};
  const char* text = ONE_OF(&world->chance, kTexts);
  close_users(world, index);
  errno = 0;
  const long result = remove_mdev(mdev, text);
  NOTE(&world->record, with("remove m%u %.1s", index, text), result);
  if (result > 0 && *text != '0') {
    mdev->exists = false;
  }
}

static void available(struct world* world) {
  const char* type = once_in(&world->chance, 2) ? "mtty-2" : "mtty-1";
  char path[128], content[16] = "";
  snprintf(path, sizeof(path), TYPES "/%s/available_instances", type);
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  long result = fd < 0 ? -1 : read(fd, content, sizeof(content) - 1);
  note_call(&world->record, with("available %s", type), result, "%d", atoi(content));
  if (fd >= 0) {
    close(fd);
  }
}

static void bind(struct world* world, unsigned index) {
  errno = 0;
  const long result = bind_device(&world->mdevs[index]);
  NOTE(&world->record, with("bind m%u", index), result);
}

static void unbind(struct world* world, unsigned index) {
  close_users(world, index);
  errno = 0;
  const long result = write_text(PCI_DRIVER "/unbind", world->mdevs[index].uuid);
  NOTE(&world->record, with("unbind m%u", index), result);
  if (result > 0) {
    world->mdevs[index].exists = false;
  }
}

static void call_binding(struct world* world) {
  const unsigned index = 1 + below(&world->chance, kMdevs - 1);
  const bool sensible = !once_in(&world->chance, 8);
  if (world->mdevs[index].exists == sensible) {
    unbind(world, index);
  } else {
    bind(world, index);
  }
}

void call_hotplug(struct world* world) {
  if (world->direct) {
    call_binding(world);
    return;
  }
  const unsigned index = 1 + below(&world->chance, kMdevs - 1);
  const uint32_t way = below(&world->chance, 8);
  if (way == 0) {
    available(world);
  } else if (way == 1) {  // Whether it makes sense or not.
    once_in(&world->chance, 2) ? create(world, index) : unplug(world, index);
  } else if (world->mdevs[index].exists) {
    unplug(world, index);
  } else {
    create(world, index);
  }
}
