#include "files.hpp"

#include <fcntl.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <map>
#include <mutex>
#include <system_error>
#include <utility>

#include "text.hpp"

namespace tokfilter {
namespace {

constexpr std::uintmax_t kLargest = std::uintmax_t{8} << 30;  // as artifacts/checked.py

// An open file, closed in the destructor.
class Descriptor {
  public:
    explicit Descriptor(int number) noexcept : number_(number) {}
    ~Descriptor() {
        if (number_ >= 0) ::close(number_);
    }
    Descriptor(const Descriptor&) = delete;
    Descriptor& operator=(const Descriptor&) = delete;
    int get() const noexcept { return number_; }
    int release() noexcept { return std::exchange(number_, -1); }

  private:
    int number_;
};

// Reads until the buffer is full or the file ends; the number of bytes read, -1 after an error.
std::ptrdiff_t read_all(int file, char* to, std::size_t size) {
    std::size_t done = 0;
    while (done < size) {
        const auto count = ::read(file, to + done, size - done);
        if (count < 0 && errno == EINTR) continue;
        if (count < 0) return -1;
        if (count == 0) break;
        done += static_cast<std::size_t>(count);
    }
    return static_cast<std::ptrdiff_t>(done);
}

bool write_all(int file, const char* from, std::size_t size) {
    for (std::size_t done = 0; done < size;) {
        const auto count = ::write(file, from + done, size - done);
        if (count < 0 && errno != EINTR) return false;
        if (count > 0) done += static_cast<std::size_t>(count);
    }
    return true;
}

// A memfd with these bytes that nobody can write to any more; -1 where the system has none (or /proc is not
// mounted).
int sealed(const std::vector<char>& content) {
    Descriptor file(::memfd_create("tokfilter", MFD_CLOEXEC | MFD_ALLOW_SEALING));
    if (file.get() < 0 || !write_all(file.get(), content.data(), content.size())) return -1;
    if (::fcntl(file.get(), F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE) != 0)
        return -1;
    if (::access(text("/proc/self/fd/", file.get()).c_str(), R_OK) != 0) return -1;
    return file.release();
}

// Libraries that were handed to the loader, by digest. The loader takes a path that it has seen for the
// library that it has loaded, so a path must not come back with other content: descriptors stay open.
class Libraries {
  public:
    ~Libraries() {
        std::error_code ignored;
        for (const auto& folder : folders_) std::filesystem::remove_all(folder, ignored);
    }

    Result<std::filesystem::path> path(const std::vector<char>& content, const Entry& entry) {
        const std::lock_guard lock(mutex_);
        if (const auto found = paths_.find(entry.sha256); found != paths_.end()) return found->second;
        const int number = sealed(content);
        auto made =
            number >= 0 ? std::filesystem::path(text("/proc/self/fd/", number)) : copied(content, entry);
        if (made.empty())
            return Status(Code::plugin,
                          text("no private copy of ", entry.path, " could be written to ",
                               std::filesystem::temp_directory_path().string(), ". Is the disk full?"));
        return paths_[entry.sha256] = std::move(made);
    }

  private:
    // A copy in a folder that only this user can enter; empty after a failure.
    std::filesystem::path copied(const std::vector<char>& content, const Entry& entry) {
        std::string name = (std::filesystem::temp_directory_path() / "tokfilter-XXXXXX").string();
        if (::mkdtemp(name.data()) == nullptr) return {};
        folders_.emplace_back(name);
        const auto path = folders_.back() / entry.path;
        const Descriptor file(::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
        return file.get() >= 0 && write_all(file.get(), content.data(), content.size())
                   ? path
                   : std::filesystem::path();
    }

    std::mutex mutex_;
    std::map<std::string, std::filesystem::path> paths_;
    std::vector<std::filesystem::path> folders_;
};

}  // namespace

std::string sha256(const void* data, std::size_t size) {
    std::array<unsigned char, 32> digest{};
    unsigned int length = 0;
    if (EVP_Digest(data, size, digest.data(), &length, EVP_sha256(), nullptr) != 1) return "";
    std::string hexadecimal;
    for (const unsigned char byte : digest) {
        hexadecimal += "0123456789abcdef"[byte >> 4u];
        hexadecimal += "0123456789abcdef"[byte & 15u];
    }
    return hexadecimal;
}

Result<std::vector<char>> checked_bytes(const std::filesystem::path& directory, const Entry& entry) {
    const std::string path = (directory / entry.path).string();
    const auto refused = [&](const auto&... why) {
        return Status(Code::changed_file, text(path, why..., " Export again."));
    };
    const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));  // a FIFO must not wait
    if (file.get() < 0 && errno == ENOENT) return refused(" is missing, though manifest.json lists it.");
    if (file.get() < 0)
        return Status(Code::changed_file, text(path, " cannot be read: check its permissions."));
    struct stat about{};
    if (::fstat(file.get(), &about) != 0 || !S_ISREG(about.st_mode))
        return refused(" is no regular file, though manifest.json lists it.");
    if (entry.bytes > kLargest) return refused(" must have at most 8 GiB, manifest.json says more.");
    constexpr auto kChanged = " is not the file that manifest.json describes: its bytes have changed.";
    if (static_cast<std::uintmax_t>(about.st_size) != entry.bytes) return refused(kChanged);
    std::vector<char> content(entry.bytes);
    const auto count = read_all(file.get(), content.data(), content.size());
    if (count < 0) return Status(Code::changed_file, text(path, " cannot be read: is its disk damaged?"));
    if (static_cast<std::uintmax_t>(count) != entry.bytes ||
        sha256(content.data(), content.size()) != entry.sha256)
        return refused(kChanged);
    return content;
}

Result<std::filesystem::path> checked_library(const std::filesystem::path& directory, const Entry& entry) {
    static Libraries libraries;
    const auto content = checked_bytes(directory, entry);
    if (!content.ok()) return content.status();
    return libraries.path(*content, entry);
}

}  // namespace tokfilter
