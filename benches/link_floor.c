/* The floor of linking a library: trees linked file by file, relative to directory handles, and nothing else done.
 *
 *     link_floor hard DEST TREE...    every file of each tree as a hard link below DEST/<name of the tree's package>
 *     link_floor sym  DEST TREE...    one symlink for each tree
 *
 * The package is the third last part of a tree's path, as in a store. */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void die(const char *what) {
    perror(what);
    exit(1);
}

static void copy(int from, int to) {
    DIR *dir = fdopendir(dup(from));
    if (!dir) die("fdopendir");
    for (struct dirent *item; (item = readdir(dir));) {
        const char *name = item->d_name;
        if (!strcmp(name, ".") || !strcmp(name, "..")) continue;
        if (item->d_type == DT_DIR) {
            if (mkdirat(to, name, 0755)) die(name);
            int inner_from = openat(from, name, O_RDONLY | O_DIRECTORY), inner_to = openat(to, name, O_RDONLY | O_DIRECTORY);
            if (inner_from < 0 || inner_to < 0) die(name);
            copy(inner_from, inner_to);
            close(inner_from);
            close(inner_to);
        } else if (linkat(from, name, to, name, 0)) {
            die(name);
        }
    }
    closedir(dir);
}

int main(int argc, char **argv) {
    if (argc < 3) return 2;
    int dest = open(argv[2], O_RDONLY | O_DIRECTORY);
    if (dest < 0) die(argv[2]);
    for (int n = 3; n < argc; n++) {
        char *path = strdup(argv[n]), *package = path;
        for (int part = 0; part < 3; part++) {
            package = strrchr(path, '/');
            if (!package) return 2;
            if (part < 2) *package = 0;
        }
        package++;
        if (!strcmp(argv[1], "sym")) {
            if (symlinkat(argv[n], dest, package)) die(package);
            continue;
        }
        if (mkdirat(dest, package, 0755)) die(package);
        int from = open(argv[n], O_RDONLY | O_DIRECTORY), to = openat(dest, package, O_RDONLY | O_DIRECTORY);
        if (from < 0 || to < 0) die(argv[n]);
        copy(from, to);
        close(from);
        close(to);
    }
    return 0;
}
