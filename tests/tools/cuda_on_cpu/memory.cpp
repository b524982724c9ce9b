#include "memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <new>
#include <string>
#include <vector>

#include "block.h"
#include "cuda_on_cpu.h"
#include "record.h"

namespace cuda_on_cpu {
namespace {

constexpr std::size_t kGuardBytes = 64 * 1024;  // unmapped device addresses around a buffer
constexpr unsigned char kGarbage = 0xA5;        // content of new device memory

std::vector<DeviceBuffer*> buffers;

unsigned char* reserve(std::size_t bytes, int protection) {
    void* const memory = mmap(nullptr, bytes, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    return static_cast<unsigned char*>(memory);
}

}  // namespace

DeviceBuffer::DeviceBuffer(std::string name, std::size_t bytes, Access access, std::size_t offset)
    : name_(std::move(name)), bytes_(bytes), access_(access), map_bytes_(bytes + offset + 2 * kGuardBytes) {
    device_map_ = reserve(map_bytes_, PROT_NONE);
    host_map_ = reserve(map_bytes_, PROT_READ | PROT_WRITE);
    written_map_ = access == Access::kWrite ? reserve(map_bytes_, PROT_READ | PROT_WRITE) : nullptr;
    device_begin_ = device_map_ + kGuardBytes + offset;
    host_begin_ = host_map_ + kGuardBytes + offset;
    written_ = written_map_ == nullptr ? nullptr : written_map_ + kGuardBytes + offset;
    if (access == Access::kWrite) std::memset(host_begin_, kGarbage, bytes_);
    buffers.push_back(this);
}

DeviceBuffer::~DeviceBuffer() {
    buffers.erase(std::find(buffers.begin(), buffers.end(), this));
    munmap(device_map_, map_bytes_);
    munmap(host_map_, map_bytes_);
    if (written_map_ != nullptr) munmap(written_map_, map_bytes_);
}

// Finds, checks and counts one access of the running thread.
class GlobalAccess {
  public:
    GlobalAccess(Access direction, const void* address, std::size_t bytes)
        : direction_(direction), address_(static_cast<const unsigned char*>(address)), bytes_(bytes) {
        if (reinterpret_cast<std::uintptr_t>(address) % bytes != 0)
            fail("misaligned " + text() + " at address ..." +
                 std::to_string(reinterpret_cast<std::uintptr_t>(address) % 16));
        buffer_ = find();
        if (buffer_ != nullptr) check();
    }

    void load(void* value) const {
        const auto bytes = static_cast<std::int64_t>(bytes_);
        current_record().loaded += bytes;
        if (buffer_ != nullptr) buffer_->loaded_ += bytes;
        std::memcpy(value, buffer_ == nullptr ? address_ : buffer_->host_begin_ + offset(), bytes_);
    }

    void store(unsigned char* to, const void* value) const {
        const auto bytes = static_cast<std::int64_t>(bytes_);
        current_record().stored += bytes;
        if (buffer_ != nullptr) {
            buffer_->stored_ += bytes;
            unsigned char* const written = buffer_->written_ + offset();
            if (std::memchr(written, 1, bytes_) != nullptr) refuse("was stored before in this launch");
            std::memset(written, 1, bytes_);
            to = buffer_->host_begin_ + offset();
        }
        std::memcpy(to, value, bytes_);
    }

  private:
    std::ptrdiff_t offset() const { return address_ - buffer_->device_begin_; }
    std::string text() const {
        return (direction_ == Access::kRead ? "load of " : "store of ") + std::to_string(bytes_) + " bytes";
    }
    [[noreturn]] void refuse(const char* why) const {
        fail(text() + " at " + buffer_->name_ + "[" + std::to_string(offset()) + "] " + why + " (" +
             buffer_->name_ + " has " + std::to_string(buffer_->bytes_) + " bytes)");
    }
    DeviceBuffer* find() const {
        for (DeviceBuffer* const buffer : buffers)
            if (address_ >= buffer->device_map_ && address_ < buffer->device_map_ + buffer->map_bytes_)
                return buffer;
        return nullptr;
    }
    void check() const {
        if (offset() < 0 || offset() + bytes_ > buffer_->bytes_) refuse("is out of bounds");
        if (buffer_->access_ != direction_) refuse("goes the wrong way");
    }

    Access direction_;
    const unsigned char* address_;
    std::size_t bytes_;
    DeviceBuffer* buffer_ = nullptr;
};

void load_bytes(void* value, const void* from, std::size_t bytes) {
    GlobalAccess(Access::kRead, from, bytes).load(value);
}

void store_bytes(void* to, const void* value, std::size_t bytes) {
    GlobalAccess(Access::kWrite, to, bytes).store(static_cast<unsigned char*>(to), value);
}

}  // namespace cuda_on_cpu
