# The CMake package of libinfer:
#
#     find_package(infer 0.1 REQUIRED)
#     target_link_libraries(program PRIVATE infer::infer)          # the shared library
#     target_link_libraries(program PRIVATE infer::infer_static)   # the static one, and what it needs of the system
#
# A target exists when its library is installed. This file lies in PREFIX/share/infer/cmake and finds the rest from
# there, so an installation can be moved.

get_filename_component(_infer_prefix "${CMAKE_CURRENT_LIST_DIR}/../../.." ABSOLUTE)

set(_infer_folders
  "${_infer_prefix}/lib/${CMAKE_LIBRARY_ARCHITECTURE}" "${_infer_prefix}/lib" "${_infer_prefix}/lib64")
find_path(_infer_include infer.h PATHS "${_infer_prefix}/include" NO_DEFAULT_PATH NO_CMAKE_FIND_ROOT_PATH NO_CACHE)
find_library(_infer_shared
  NAMES "${CMAKE_SHARED_LIBRARY_PREFIX}infer${CMAKE_SHARED_LIBRARY_SUFFIX}" infer.dll.lib
  PATHS ${_infer_folders} NO_DEFAULT_PATH NO_CMAKE_FIND_ROOT_PATH NO_CACHE)
find_library(_infer_static
  NAMES "${CMAKE_STATIC_LIBRARY_PREFIX}infer${CMAKE_STATIC_LIBRARY_SUFFIX}"
  PATHS ${_infer_folders} NO_DEFAULT_PATH NO_CMAKE_FIND_ROOT_PATH NO_CACHE)

# What rustc names with --print native-static-libs.
if(WIN32)
  set(_infer_native kernel32 ntdll userenv ws2_32 dbghelp)
elseif(APPLE)
  set(_infer_native m)
else()
  set(_infer_native gcc_s util rt pthread m dl)
endif()

if(_infer_include AND _infer_shared AND NOT TARGET infer::infer)
  if(WIN32)
    # Windows links with the import library and finds the DLL on its path.
    add_library(infer::infer UNKNOWN IMPORTED)
  else()
    add_library(infer::infer SHARED IMPORTED)
  endif()
  set_target_properties(infer::infer PROPERTIES
    IMPORTED_LOCATION "${_infer_shared}"
    INTERFACE_INCLUDE_DIRECTORIES "${_infer_include}")
endif()

if(_infer_include AND _infer_static AND NOT TARGET infer::infer_static)
  add_library(infer::infer_static STATIC IMPORTED)
  set_target_properties(infer::infer_static PROPERTIES
    IMPORTED_LOCATION "${_infer_static}"
    IMPORTED_LINK_INTERFACE_LANGUAGES C
    INTERFACE_INCLUDE_DIRECTORIES "${_infer_include}"
    INTERFACE_LINK_LIBRARIES "${_infer_native}")
endif()

if(NOT TARGET infer::infer AND NOT TARGET infer::infer_static)
  set(infer_FOUND FALSE)
  set(infer_NOT_FOUND_MESSAGE "there is no infer.h, or neither library, below ${_infer_prefix}")
endif()

unset(_infer_prefix)
unset(_infer_folders)
unset(_infer_include)
unset(_infer_shared)
unset(_infer_static)
unset(_infer_native)
