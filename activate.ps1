# Makes venv\ beside this file, installs requirements.txt into it whenever that file has changed
# since the last complete installation, and activates it. Run it in PowerShell, from any folder:
#   .\activate.ps1
# If PowerShell refuses to run scripts, allow them for this window first:
#   Set-ExecutionPolicy -Scope Process RemoteSigned
# and, if the project came as a zip file: Unblock-File .\activate.ps1

# One block with a scope of its own: dot-sourcing leaves no variables behind. `exit` ends this file
# only, dot-sourced or not.
& {
    function Stop-Activation([string] $Message) {
        [Console]::Error.WriteLine("activate.ps1: $Message")
        exit 1
    }

    $ErrorActionPreference = 'Continue'
    # PyTorch's wheels for CUDA 12.6. A GPU that they do not know (GeForce RTX 50, for instance) needs
    # a newer index, such as .../whl/cu130: change it here, delete venv\ and run this again.
    $torchIndex = 'https://download.pytorch.org/whl/cu126'
    $root = $PSScriptRoot
    $venv = Join-Path $root 'venv'
    $venvPython = Join-Path $venv 'Scripts\python.exe'
    $activate = Join-Path $venv 'Scripts\Activate.ps1'
    $requirements = Join-Path $root 'requirements.txt'
    $installed = Join-Path $venv 'requirements.installed'

    if ($env:OS -ne 'Windows_NT') {
        Stop-Activation 'outside Windows use bash or zsh: . ./activate.sh'
    }
    if (-not (Test-Path -LiteralPath $requirements)) {
        Stop-Activation "requirements.txt is missing in ${root}: get the whole project"
    }

    # Without its activation files the environment is half made; one whose activate.bat names
    # another folder came with a moved or copied project.
    $usable = $false
    if ((Test-Path -LiteralPath $activate) -and (Test-Path -LiteralPath $venvPython)) {
        $folder = Get-Content -Encoding UTF8 -LiteralPath (Join-Path $venv 'Scripts\activate.bat') |
            Select-String -Pattern 'set "?VIRTUAL_ENV=([^"]+)' |
            ForEach-Object { $_.Matches[0].Groups[1].Value } | Select-Object -First 1
        if (-not $folder) { $folder = $venv }
        & $venvPython -c 'import os, pip, sys; sys.exit(not os.path.samefile(sys.argv[1], sys.prefix))' $folder 2>$null
        $usable = $LASTEXITCODE -eq 0
    }
    if (-not $usable) {
        $python = $null
        foreach ($candidate in @('py', '-3'), @('python')) {
            if (-not (Get-Command $candidate[0] -ErrorAction SilentlyContinue)) { continue }
            $options = @($candidate | Select-Object -Skip 1)
            & $candidate[0] @options -c 'import sys; sys.exit(sys.version_info < (3, 10) or sys.maxsize < 2**32)' 2>$null
            if ($LASTEXITCODE -eq 0) { $python = $candidate[0]; break }
        }
        if (-not $python) {
            Stop-Activation 'Python 3.10 or newer, 64-bit, was not found: install it and open a new window'
        }
        Write-Host 'Making venv ...'
        & $python @options -m venv --clear $venv
        if ($LASTEXITCODE -ne 0) {
            Stop-Activation "could not make ${venv}: close the programs that use it and run this again"
        }
    }

    # The copy of requirements.txt exists only while what it lists is completely installed.
    $wanted = Get-Content -Raw -LiteralPath $requirements
    if (-not ((Test-Path -LiteralPath $installed) -and
            (Get-Content -Raw -LiteralPath $installed) -ceq $wanted)) {
        Write-Host 'Installing packages into venv (a few minutes the first time) ...'
        $new = Join-Path $venv 'requirements.new'
        $torch = Join-Path $venv 'requirements.torch'
        $other = Join-Path $venv 'requirements.other'
        if (Test-Path -LiteralPath $installed) { Remove-Item -LiteralPath $installed }
        Copy-Item -LiteralPath $requirements -Destination $new
        $lines = @(Get-Content -LiteralPath $new)
        Set-Content -LiteralPath $torch -Encoding ascii -Value @($lines -cmatch '^torch')
        Set-Content -LiteralPath $other -Encoding ascii -Value @($lines -cnotmatch '^torch')
        & $venvPython -m pip install -q --disable-pip-version-check -r $other
        if ($LASTEXITCODE -eq 0) {
            & $venvPython -m pip install -q --disable-pip-version-check -r $torch --index-url $torchIndex
        }
        if ($LASTEXITCODE -ne 0) {
            Stop-Activation 'could not install requirements.txt, pip says why above; run this again to retry'
        }
        Move-Item -Force -LiteralPath $new -Destination $installed
    }

    . $activate
    Write-Host 'The environment is active. Try next:'
    if ((Get-Location).ProviderPath -ne $root) { Write-Host "  cd `"$root`"" }
    Write-Host '  python jacobian\demo.py'
    Write-Host '  cd FullSynthetic\DDPM-MNIST'
    Write-Host '  python initialmain.py --help'
    Write-Host '  python main.py --help'
    & $venvPython -W ignore -c "import torch; ok = torch.cuda.is_available(); ok and torch.ones(1, device='cuda').item(); print('CUDA: ' + torch.cuda.get_device_name() if ok else 'CUDA: no GPU is visible, so the CPU will be used')" 2>$null
    if ($LASTEXITCODE -ne 0) {
        Write-Host 'CUDA: PyTorch cannot be used; to see why: python -c "import torch; torch.ones(1).cuda()"'
    }
    $global:LASTEXITCODE = 0
}
