#include "sysfs.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "check.h"
#include "fixture.h"

#define OWN_UUID_PREFIX "5f0e1c64-7c2a-4d1e-9b3f-0000000000"

const char* own_uuid(unsigned n) { return text(OWN_UUID_PREFIX "%02x", n); }

const char* mdev_file(const char* uuid, const char* file) {
  return text("%s/%s/%s", MDEV_DEVICES, uuid, file);
}

// Remembers the parent, as the device under test may be gone when it is asked for again.
static const char* types_directory(void) {
  static char types[PATH_MAX];
  if (!*types) {
    char type[PATH_MAX];
    if (!realpath(mdev_file(device_name(), "mdev_type"), type)) {
      give_up("mdev_type");
    }
    snprintf(types, sizeof(types), "%s", dirname(type));
  }
  return types;
}

const char* type_file(const char* type, const char* file) {
  return text("%s/%s/%s", types_directory(), type, file);
}

long write_file(const char* path, const char* data, size_t size) {
  int fd = open(path, O_WRONLY | O_CLOEXEC);
  if (fd < 0) {
    return -1;
  }
  long result = write(fd, data, size);
  const int error = errno;
  close(fd);
  errno = error;
  return result;
}

long create_mdev(const char* type, const char* uuid) {
  return write_file(type_file(type, "create"), uuid, strlen(uuid));
}

long remove_mdev(const char* uuid) { return write_file(mdev_file(uuid, "remove"), "1", 1); }

void must_create_mdev(const char* type, const char* uuid) {
  if (create_mdev(type, uuid) < 0) {
    give_up("create");
  }
}

unsigned available_instances(const char* type) {
  char content[16] = "";
  int fd = open(type_file(type, "available_instances"), O_RDONLY);
  if (fd < 0 || read(fd, content, sizeof(content) - 1) < 0) {
    give_up("available_instances");
  }
  close(fd);
  unsigned value = 0;
  for (const char* digit = content; *digit >= '0' && *digit <= '9'; digit++) {
    value = value * 10 + (unsigned)(*digit - '0');
  }
  return value;
}

void remove_own_mdevs(void) {
  for (unsigned n = 0; n < 64; n++) {
    if (!access(mdev_file(own_uuid(n), "remove"), F_OK)) {
      remove_mdev(own_uuid(n));
    }
  }
}

// Replaces what another machine numbers differently: UUIDs, and numbers that stand alone or end a
// name after "vfio".
static const char* anonymous(const char* original, const char* uuid) {
  static char result[2048];
  size_t length = 0;
  const size_t uuid_length = strlen(uuid);
  const char* start = original;
  for (const char* at = original; *at && length + 8 < sizeof(result);) {
    const bool at_word = at == start || strchr("/ ,\n", at[-1]);
    const bool after_vfio = at - start >= 4 && !strncmp(at - 4, "vfio", 4);
    if (!strncmp(at, uuid, uuid_length)) {
      length += (size_t)sprintf(result + length, "UUID");
      at += uuid_length;
    } else if (isdigit((unsigned char)*at) && (at_word || after_vfio)) {
      const char* end = at;
      while (isdigit((unsigned char)*end)) {
        end++;
      }
      const bool whole = !*end || strchr("/ ,\n", *end);
      if (whole) {
        result[length++] = 'N';
      } else {
        memcpy(result + length, at, (size_t)(end - at));
        length += (size_t)(end - at);
      }
      at = end;
    } else if (*at == '\n') {
      result[length++] = '\\';
      result[length++] = 'n';
      at++;
    } else {
      result[length++] = *at++;
    }
  }
  result[length] = '\0';
  return result;
}

void report_file(const char* name, const char* path, const char* uuid) {
  char content[1024] = "";
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  long result = fd < 0 ? -1 : read(fd, content, sizeof(content) - 1);
  if (result < 0) {
    check(name, result);
  } else {
    content[result] = '\0';
    check_value(name, "\"%s\"", anonymous(content, uuid));
  }
  if (fd >= 0) {
    close(fd);
  }
}

void report_link(const char* name, const char* path, const char* uuid) {
  char target[PATH_MAX];
  ssize_t length = readlink(path, target, sizeof(target) - 1);
  if (length < 0) {
    check(name, -1);
    return;
  }
  target[length] = '\0';
  check_value(name, "%s", anonymous(target, uuid));
}

static int skip_dots(const struct dirent* entry) { return entry->d_name[0] != '.'; }

void report_directory(const char* name, const char* path, const char* uuid) {
  struct dirent** entries;
  int count = scandir(path, &entries, skip_dots, alphasort);
  if (count < 0) {
    check(name, -1);
    return;
  }
  char list[2000] = "";
  size_t length = 0;
  for (int i = 0; i < count; i++) {
    length += (size_t)snprintf(list + length, sizeof(list) - length, "%s%s", i ? " " : "",
                               entries[i]->d_name);
    free(entries[i]);
  }
  free(entries);
  check_value(name, "%s", anonymous(list, uuid));
}
