# TensorRT or TensorRT-RTX: the target TensorRT::runtime, and
#   TensorRT_VERSION   of the headers, e.g. 10.3
#   TensorRT_RUNTIME   tensorrt or tensorrt-rtx, from the library's name
# TENSORRT_ROOT: an SDK (include/, lib/). TENSORRT_INCLUDE_DIR and TENSORRT_LIBRARY set them separately, e.g. for a wheel.

# JetPack and Debian packages: the compiler's default paths. File names in wheels have the major version only.
find_path(TENSORRT_INCLUDE_DIR NvInferRuntime.h HINTS ${TENSORRT_ROOT} PATH_SUFFIXES include)
find_library(TENSORRT_LIBRARY
             NAMES nvinfer libnvinfer.so.11 libnvinfer.so.10 libnvinfer.so.8 tensorrt_rtx libtensorrt_rtx.so.1
             HINTS ${TENSORRT_ROOT} PATH_SUFFIXES lib)

if(TENSORRT_INCLUDE_DIR)
  # 10.14 and later: TRT_MAJOR_ENTERPRISE, or TRT_MAJOR_RTX in the headers of TensorRT-RTX; before: NV_TENSORRT_MAJOR.
  file(STRINGS "${TENSORRT_INCLUDE_DIR}/NvInferVersion.h" version_lines
       REGEX "define +(NV_TENSORRT|TRT)_(MAJOR|MINOR)[A-Z_]* +[0-9]+")
  string(REGEX REPLACE "[^0-9]*([0-9]+)[^0-9]*([0-9]+).*" "\\1.\\2" TensorRT_VERSION "${version_lines}")
endif()
if(TENSORRT_LIBRARY MATCHES "tensorrt_rtx")
  set(TensorRT_RUNTIME tensorrt-rtx)
else()
  set(TensorRT_RUNTIME tensorrt)
endif()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(TensorRT
  REQUIRED_VARS TENSORRT_LIBRARY TENSORRT_INCLUDE_DIR VERSION_VAR TensorRT_VERSION
  REASON_FAILURE_MESSAGE "pass -DTENSORRT_ROOT=<SDK: include/, lib/>, or -DTENSORRT_INCLUDE_DIR=<folder of NvInferRuntime.h>\
 and -DTENSORRT_LIBRARY=<file of libnvinfer or libtensorrt_rtx>. `tokfilter plugin headers --fetch` downloads headers")

if(TensorRT_FOUND AND NOT TARGET TensorRT::runtime)
  # SHARED, not UNKNOWN: a cross-linker finds it for programs that link tokfilter only with CMake's -rpath-link.
  add_library(TensorRT::runtime SHARED IMPORTED)
  set_target_properties(TensorRT::runtime PROPERTIES
    IMPORTED_LOCATION "${TENSORRT_LIBRARY}" INTERFACE_INCLUDE_DIRECTORIES "${TENSORRT_INCLUDE_DIR}")
endif()
mark_as_advanced(TENSORRT_INCLUDE_DIR TENSORRT_LIBRARY)
